"""The `qad` method: 4-bit weights tuned by quantization-aware distillation from the model itself (W4A16)."""

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


class Qad(Config):
    """GPTQ, then a short distillation: roundings, scales and norms are moved along the gradient of the KL divergence from the
    model's own predictions on the calibration rows. The best of the 4-bit methods; the whole model is in memory in float32 with
    its gradients, three times over."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W4A16"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["qad"] = "qad"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""
    steps: int = Field(default=60, ge=1)
    """Steps of distillation."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens of a step, at least one row."""
    lr: float = Field(default=0.02, gt=0)
    """By how much of its scale a weight may move before it is rounded, in the first step; it falls to nothing."""
    lr_scales: float = Field(default=0.002, gt=0)
    """By how much of itself a scale, or a norm's weight, may move in a step."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError, DataError; see `round_blocks`."""
        from raylm.compress.methods.distillation import Tuning, head_inputs, tune

        assert calibration is not None
        model.float()
        grid = Grid(4, self.group_size, half=True)
        grids, _ = grids_of(model, grid)
        own = head_inputs(model, calibration)
        done = round_blocks(model, calibration, grids, Recipe())
        tuned = tune(model, calibration, own, done.fitted, grids, Tuning(self.steps, self.batch_tokens, self.lr, self.lr_scales))
        to_half(model)
        metrics = {"output_error": done.output_error, **tuned.metrics}
        return Applied(round_weights(model, grid.arguments(), None, {}, tuned.scales), unseen(done.unseen), metrics)
