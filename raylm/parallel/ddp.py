"""Takes a model, leaves it replicated: every rank holds all of it, gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylm.core.config import Config
from raylm.parallel.engine import Engine
from raylm.parallel.optimizer import AdamW

if TYPE_CHECKING:
    import torch


class Ddp(Config):
    """Distributed data parallel: fastest when the model, its gradients and optimizer fit on one device."""

    kind: Literal["ddp"] = "ddp"

    def wrap(self, model: torch.nn.Module, optimizer: AdamW, steps: int, dtype: str = "float32") -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank; `dtype` is compute's."""
        import torch
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        autocast = None if dtype == "float32" else getattr(torch, dtype)
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return Engine(model, model, optimizer, steps, autocast)
        return Engine(DistributedDataParallel(model), model, optimizer, steps, autocast)
