"""Config that training and RL share: the layout of a model over ranks, and its optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raylm.core.config import Role, StageConfig
from raylm.parallel.matrix import features, refusal
from raylm.parallel.mesh import Mesh
from raylm.parallel.optimizers import AnyOptimizer
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies import AnyStrategy
from raylm.parallel.strategies.fsdp import Fsdp


class ParallelConfig(StageConfig):
    """A stage that updates weights by one engine."""

    placement = frozenset(
        {
            "workers",
            "strategy",
            "mesh",
            "micro_batch",
            "attention",
            "cross_entropy",
            "activation_checkpointing",
            "compile",
            "kernels",
        }
    )
    renamed = {"recompute": "activation_checkpointing"}

    optimizer: AnyOptimizer = AdamW()
    """Optimizer, learning rate, schedule, clipping."""
    strategy: AnyStrategy = Fsdp()
    """How weights, gradients and optimizer lie over the data ranks."""
    mesh: Mesh = Mesh()
    """Other dimensions of the layout: tensor, context, pipeline, expert parallel, replicas."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Keep a moving average of the weights with this decay beside them; held-out metrics and the checkpoint are of it."""
    attention: Literal["auto", "varlen", "flex", "segments", "sdpa"] = "auto"
    """Way of attention: flash kernels over documents, compiled flex_attention, document by document, or a mask; `auto` takes
    the first that this device has."""
    cross_entropy: Literal["auto", "fused", "chunked", "plain"] = "auto"
    """Way of the output layer and the loss: `chunked` and `fused` hold some tokens' logits at a time, `fused` with kernels
    made by torch.compile, `plain` holds all; `auto` takes chunked on CPUs and fused on GPUs."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again in place of keeping it: `full` all of a block from its input, `selective` all but
    matrix products and attention."""
    compile: bool = False
    """Compile each transformer block by torch.compile; the first steps take longer."""
    kernels: Literal["auto", "liger", "none"] = "auto"
    """Fused kernels for norms, rotary positions and gated layers: Liger's; `auto` takes them on GPUs where liger-kernel is
    installed, unless blocks are compiled or cut."""
    dtype: Literal["float32", "bfloat16", "float8"] = "float32"
    """Dtype of compute. Weights that are trained are kept in float32; frozen ones, beside an adapter, in this dtype. `float8` is
    bfloat16 with the products of the blocks' linear layers in float8 (stacked experts keep bfloat16), on GPUs that have it
    (capability 8.9)."""

    def sizes(self) -> tuple[int, ...]:
        """Numbers of ranks with which the stage may go on, ascending: those from `workers.least` on that the mesh allows."""
        least = self.workers.least or self.workers.count
        return tuple(size for size in range(least, self.workers.count + 1) if self.mesh.refused(size) is None)

    def roles(self) -> dict[str, Role]:
        return {"ranks": self.workers.role(least=self.sizes()[0])}

    @model_validator(mode="after")
    def _can_be_laid_out(self) -> ParallelConfig:
        if reason := refusal(features(self)) or self.mesh.refused(self.workers.count):
            raise ValueError(reason)
        if self.mesh.tensor > 1 and self.cross_entropy in ("fused", "plain"):
            raise ValueError(
                f"cross_entropy = {self.cross_entropy!r} is for whole vocabularies, mesh.tensor shards it: set chunked, or auto"
            )
        if (self.workers.least or 1) not in range(1, self.workers.count + 1):
            raise ValueError(f"workers.least = {self.workers.least} is not from 1 to workers.count = {self.workers.count}")
        return self
