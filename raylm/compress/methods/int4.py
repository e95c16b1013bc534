"""The `int4` method: 4-bit integer weights in groups, activations unchanged (W4A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.coverage import layers_to_round
from raylm.compress.methods.applied import Applied
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.rounding import round_weights, to_half
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class Int4(Config):
    """One scale per group of weights. An eighth to a quarter of the bytes; vLLM computes in 16 bits with it."""

    needs: ClassVar[tuple[str, ...]] = ()
    scheme: ClassVar[str] = "W4A16"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["int4"] = "int4"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""
    observer: Literal["minmax", "mse"] = "minmax"
    """`minmax`: the largest weight of a group sets its scale; `mse`: the scale of the smallest squared error is searched."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place."""
        grid = Grid(4, self.group_size, half=True)
        scales = {}
        for name in layers_to_round(model)[0]:
            layer: Any = model.get_submodule(name)
            grid.check(name, layer)
            if self.observer == "mse":
                scales[name] = grid.search(layer.weight.data)
        to_half(model)
        return Applied(round_weights(model, grid.arguments(), None, {}, scales))
