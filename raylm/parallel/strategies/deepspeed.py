"""The `deepspeed` strategy: DeepSpeed's ZeRO shards optimizer, gradients and weights, or offloads them to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from raylm.core.errors import ConfigError
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.mesh import Grid
from raylm.parallel.strategies.strategy import ModelSize, RankMemory, Strategy, Traffic

if TYPE_CHECKING:
    import torch


class Deepspeed(Strategy):
    """ZeRO (https://arxiv.org/abs/1910.02054): what FSDP does, and offload to the host's memory."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero: Literal[1, 2, 3] = 3
    """What is cut over the ranks: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload: list[Literal["optimizer", "parameters"]] = []
    """What waits in the host's memory while no device computes with it; the optimizer then works there. Parameters: zero 3."""
    bucket: int = Field(default=100_000_000, gt=0)
    """Numbers exchanged at a time: memory of the exchange against its speed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "parameters" in self.offload and self.zero < 3:
            raise ConfigError(f"zero {self.zero} keeps all weights on every rank, only zero 3 can offload them", next="zero = 3")
        return self

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank.

        Raises:
            ConfigError: the layout cuts more than data, or the optimizer cannot work on a cut of a matrix.
        """
        import torch.distributed as dist

        _check_layout(grid)
        if not dist.is_initialized():
            if self.offload:
                raise ConfigError("offload works on a group of ranks, this process is in none", next="drop strategy.offload")
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        if recipe.optimizer is None and self.zero < 3:
            # nothing is cut of a model that is only asked
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        from raylm.parallel.zero.engine import ZeroEngine

        return ZeroEngine(model, grid, recipe, self.settings(model, grid, recipe))

    def memory(self, size: ModelSize) -> RankMemory:
        optimizer, gradients, weights = (size.data if self.zero >= least else 1 for least in (1, 2, 3))
        buckets = 4.0 * min(size.trained, 2 * self.bucket) + size.casts if size.ranks > 1 else size.casts
        gathered = size.gathered(reshard=True) if self.zero == 3 else buckets
        here = 0.0 if "parameters" in self.offload else 1.0
        return RankMemory(
            here * (size.frozen_bytes + 4.0 * size.trained) / weights,
            here * 4.0 * size.trained / gradients,
            0.0 if "optimizer" in self.offload else size.optimizer_bytes / optimizer,
            gathered,
        )

    def traffic(self, size: ModelSize) -> Traffic:
        passes = 2 * (size.num_micros if size.pipeline == 1 else 1)
        return Traffic(passes * (size.gather_bytes * size.blocks + size.width * size.ends), 4.0 * size.trained)

    def settings(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> dict[str, Any]:
        """DeepSpeed's own configuration (https://www.deepspeed.ai/docs/config-json/)."""
        numel = max(1, min(self.bucket, sum(p.numel() for p in model.parameters())))
        narrow = recipe.compute_dtype() is not None
        hidden = getattr(model.config, "hidden_size", 1024)
        zero: dict[str, Any] = {
            "stage": self.zero,
            "reduce_bucket_size": numel,
            "allgather_bucket_size": numel,
            "stage3_prefetch_bucket_size": numel,
            # norms and biases stay whole on every rank: gathering them costs more than holding them
            "stage3_param_persistence_threshold": 10 * hidden,
        }
        for what, key in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
            if what in self.offload:
                zero[key] = {"device": "cpu", "pin_memory": grid.device != "cpu"}
        return {
            # DeepSpeed only reports throughput by it
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": recipe.optimizer.clip if recipe.optimizer else 0.0,
            "bf16": {"enabled": narrow, "check_grad_overflow": narrow},
            # gradients are summed in float32, over micro batches and over ranks
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "zero_allow_untested_optimizer": True,
            # torch's fused AdamW computes on the host too; DeepSpeed's own would need a compiler there
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
        }


def _check_layout(grid: Grid) -> None:
    mesh = grid.mesh
    cut = [name for name in ("tensor", "pipeline", "expert", "replicas") if getattr(mesh, name) > 1]
    if cut:
        raise ConfigError(
            f"deepspeed shards over data ranks alone, the mesh has {', '.join(cut)}",
            where="mesh",
            next='strategy.kind = "fsdp", or drop these keys',
        )
