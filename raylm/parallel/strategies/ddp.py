"""Takes a model, leaves it replicated: every rank holds all of it, gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylm.core.config import Config
from raylm.parallel.blocks import blocks
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
        if grid.mesh.tensor > 1:
            return Engine(self._replicated(model, grid), model, grid, recipe, autocast=recipe.compute_dtype())
        group = grid.group("replicas", "shards", "context")
        return Engine(DistributedDataParallel(model, process_group=group), model, grid, recipe, autocast=recipe.compute_dtype())

    def lay(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> torch.nn.Module:
        """`model` as it is: passes of micro batches overlap in a pipeline, whose engine averages gradients after the last."""
        return model

    def _replicated(self, model: torch.nn.Module, grid: Grid) -> torch.nn.Module:
        """The same with matrices that are cut over tensor ranks, which DistributedDataParallel does not know."""
        from torch.distributed._composable.replicate_with_fsdp import replicate

        mesh = grid.flat("replicas_shards_context", "replicas", "shards", "context")
        for part in (*blocks(model), model):
            replicate(part, mesh=mesh)
        return model
