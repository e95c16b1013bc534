"""Takes a model's parameters, leaves AdamW over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch


class AdamW(Scheduled):
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        import torch

        return torch.optim.AdamW(self.groups(model), lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
