"""Takes the keys that training and RL share, leaves how a model lies over ranks and how it is updated."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from raylm.core.config import StageConfig
from raylm.parallel.matrix import features, refusal
from raylm.parallel.mesh import Mesh
from raylm.parallel.optimizers import AnyOptimizer
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.strategies import AnyStrategy
from raylm.parallel.strategies.fsdp import Fsdp


class Learning(StageConfig):
    """A stage that updates weights by one engine."""

    placement = frozenset({"workers", "strategy", "mesh", "micro_batch", "save_every", "keep"})

    optimizer: AnyOptimizer = AdamW()
    """Optimizer, learning rate, schedule, clipping."""
    strategy: AnyStrategy = Fsdp()
    """How weights, gradients and optimizer lie over the data ranks."""
    mesh: Mesh = Mesh()
    """Other dimensions of the layout: tensor, context, pipeline, expert parallel, replicas."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of compute. Weights that are trained are kept in float32; frozen ones, beside an adapter, in this dtype."""

    @model_validator(mode="after")
    def _can_be_laid_out(self) -> Learning:
        if reason := refusal(features(self)) or self.mesh.refused(self.workers.count):
            raise ValueError(reason)
        return self
