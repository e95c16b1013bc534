"""The `fsdp` strategy: every rank holds a shard of weights, gradients and optimizer state (FSDP2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raylm.core.errors import ConfigError
from raylm.parallel.blocks import blocks
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.mesh import Grid
from raylm.parallel.strategies.strategy import ModelSize, RankMemory, Strategy, Traffic

if TYPE_CHECKING:
    import torch


class Fsdp(Strategy):
    """Fully sharded data parallel (FSDP2, `fully_shard`), one group per transformer block and one for the rest.

    With `mesh.replicas` the cut is inside each replica and gradients are averaged between them (hybrid sharding).
    """

    kind: Literal["fsdp"] = "fsdp"
    reshard: bool = True
    """Free gathered weights after the forward pass, and what of gradients belongs to others after each micro batch: less memory,
    one more gather in the backward pass and more exchanges. Without, a step of several micro batches holds whole gradients. The
    stages of a pipeline stay gathered for all micro batches of a step, whatever this says."""
    offload: bool = False
    """Keep weights, gradients and optimizer in the host's memory; only a block's weights visit the device. Slow, for models
    that do not fit otherwise."""

    cuts_empty: ClassVar[bool] = True

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank."""
        import torch.distributed as dist

        if not dist.is_initialized():
            if self.offload:
                raise ConfigError("offload works on a group of ranks, this process is in none", next="drop strategy.offload")
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        engine = Engine(self.parallelize(model, grid, recipe), model, grid, recipe)
        engine.cuts_gradients = self.reshard or self.offload
        return engine

    def parallelize(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> torch.nn.Module:
        """`model` cut in place, without an engine around it: a rank's stages of a pipeline."""
        import torch
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=recipe.compute_dtype(), reduce_dtype=torch.float32)
        mesh = grid.shard()
        # micro batches follow each other closely in a pipeline: weights stay gathered until the last of them is through
        reshard = self.reshard and grid.mesh.pipeline == 1
        # pinned memory is copied to a GPU without waiting; where there is none it cannot be had
        offload = CPUOffloadPolicy(pin_memory=grid.device != "cpu") if self.offload else OffloadPolicy()
        if grid.mesh.expert > 1:
            from raylm.parallel.expert import shard_experts

            shard_experts(model, grid, policy, offload_policy=offload, reshard_after_forward=reshard)
        for part in (*blocks(model), model):
            fully_shard(part, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=reshard)
        if recipe.weight_loader:
            recipe.weight_loader(model, "cpu" if self.offload else None)
        return model

    def memory(self, size: ModelSize) -> RankMemory:
        gathered = size.gathered(self.reshard)
        if self.offload:
            return RankMemory(0.0, 0.0, 0.0, gathered)
        pieces = size.data // size.replicas * size.context
        # gradients of earlier micro batches lie whole where weights stay gathered, see Engine.cuts_gradients
        whole = size.num_micros > 1 and (size.pipeline > 1 or not self.reshard)
        weights = (size.frozen_bytes + 4.0 * size.trained) / pieces
        return RankMemory(weights, 4.0 * size.trained / (1 if whole else pieces), size.optimizer_bytes / pieces, gathered)

    def traffic(self, size: ModelSize) -> Traffic:
        again = size.num_micros if self.reshard and size.pipeline == 1 else 1
        passes = 2 * again if self.reshard else 1
        # cut in every micro batch, see Engine.cuts_gradients; replicas add up the last one alone
        sums = again if size.replicas == 1 else 1
        return Traffic(passes * (size.gather_bytes * size.blocks + size.width * size.ends), 4.0 * size.trained * sums)
