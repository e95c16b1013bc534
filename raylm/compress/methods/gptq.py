"""The `gptq` method: 4-bit weights whose rounding errors make up for each other (W4A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.compress.methods.applied import Applied, unseen
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.rounding import round_weights, to_half
from raylm.compress.methods.sequential import Recipe, grids_of, round_blocks
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class Gptq(Config):
    """GPTQ (https://arxiv.org/abs/2210.17323) block by block, with scales searched by the size of the inputs and coordinate
    descent behind it. Seconds for a small model, in the same format as int4."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W4A16"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["gptq"] = "gptq"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""
    act_order: bool = True
    """Inputs of the largest activations first. Groups stay those of neighbouring inputs: kernels need no order of their own."""
    damping: float = Field(default=0.01, gt=0)
    """Part of the mean diagonal of X^T X that is added to it."""
    passes: int = Field(default=2, ge=0)
    """Passes of coordinate descent (QuantEase) with refitted scales behind GPTQ; 0 for GPTQ alone."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError, DataError; see `round_blocks`."""
        assert calibration is not None
        grid = Grid(4, self.group_size, half=True)
        grids, _ = grids_of(model, grid)
        done = round_blocks(model, calibration, grids, Recipe(self.act_order, self.damping, self.passes))
        to_half(model)
        scales = {name: each.scale_OG for name, each in done.fitted.items()}
        metrics = {"output_error": done.output_error}
        return Applied(round_weights(model, grid.arguments(), None, {}, scales), unseen(done.unseen), metrics)
