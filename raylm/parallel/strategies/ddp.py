"""Takes a model, leaves it replicated: every rank holds all of it, gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylm.core.config import Config
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.mesh import Grid

if TYPE_CHECKING:
    import torch


class Ddp(Config):
    """Distributed data parallel: fastest when the model, its gradients and optimizer fit on one device."""

    kind: Literal["ddp"] = "ddp"

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank."""
        from torch.nn.parallel import DistributedDataParallel

        if grid.averaged == 1 or recipe.optimizer is None:
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        group = grid.group("replicas", "shards", "context")
        return Engine(DistributedDataParallel(model, process_group=group), model, grid, recipe, autocast=recipe.compute_dtype())
