"""Takes a model, leaves it sharded: every rank holds a slice of weights, gradients and optimizer (FSDP2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raylm.core.config import Config
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.mesh import Grid

if TYPE_CHECKING:
    import torch


class Fsdp(Config):
    """Fully sharded data parallel (FSDP2, `fully_shard`), one group per transformer block and one for the rest.

    With `mesh.replicas` the cut is inside each replica and gradients are averaged between them (hybrid sharding).
    """

    kind: Literal["fsdp"] = "fsdp"
    reshard: bool = True
    """Free gathered weights after the forward pass: less memory, one more gather in the backward pass."""

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank."""
        import torch
        import torch.distributed as dist
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if not dist.is_initialized():
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        policy = MixedPrecisionPolicy(param_dtype=recipe.compute_dtype(), reduce_dtype=torch.float32)
        mesh = grid.shard()
        for block in blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=self.reshard)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=self.reshard)
        return Engine(model, model, grid, recipe)


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer blocks: what the model's class itself says must not be split over devices."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    if not names:
        # peft wraps the model, so the class that knows lies further in
        names = {name for module in model.modules() for name in (getattr(module, "_no_split_modules", None) or ())}
    return [module for module in model.modules() if type(module).__name__ in names]
