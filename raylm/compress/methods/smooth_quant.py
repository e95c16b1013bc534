"""The `smooth_quant` method: 8-bit weights and activations, with outliers of activations moved into the weights (W8A8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.coverage import layers_to_round
from raylm.compress.methods.applied import Applied, unseen
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.int8 import eight_bit_inputs, eight_bit_scales
from raylm.compress.methods.rounding import round_weights
from raylm.compress.methods.smoothing import even, pairs, smooth
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class SmoothQuant(Config):
    """SmoothQuant (https://arxiv.org/abs/2211.10438): what int8 makes, of a model whose activations have no outliers any more."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W8A8"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["smooth_quant"] = "smooth_quant"
    strength: float = Field(default=0.5, ge=0, le=1)
    """How much of the activations' size goes into the weights; alpha in the paper."""
    activations: Literal["static", "dynamic"] = "static"
    """`static`: one measured scale per layer, the same for every engine; `dynamic`: one scale per token, found as it runs."""
    reduce_range: bool = False
    """Weights within -64 and 64, which engines on x86 CPUs without VNNI instructions need; see the int8 method."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError where its blocks are no chain, DataError where numbers are not finite."""
        assert calibration is not None
        left, _ = layers_to_round(model)
        names = set(left)
        tried = done = 0
        for block in calibration.blocks(model):
            found = block.statistics()
            names -= found.keys()
            for pair in pairs(block):
                if not found.keys() >= set(pair.layers):
                    continue
                found[pair.layers[0]].check(pair.layers[0])
                tried += 1
                done += smooth(block, pair, even(pair, self._scale(block.layers, pair.layers, found[pair.layers[0]])))
        ranges = calibration.absmax(model) if self.activations == "static" else {}
        inputs = eight_bit_inputs(self.activations == "dynamic")
        facts = {"smoothed": f"{done} of {tried} groups of layers", **unseen(sorted(names))}
        grid = Grid(8, reduced=self.reduce_range)
        return Applied(round_weights(model, grid.arguments(), inputs, ranges, eight_bit_scales(model, grid)), facts)

    def _scale(self, layers: dict[str, Any], names: list[str], found: Any) -> torch.Tensor:
        import torch

        weights = torch.stack([layers[name].weight.data.float().abs().amax(0) for name in names]).amax(0)
        scale = found.absmax_I.clamp(min=1e-5) ** self.strength / weights.clamp(min=1e-5) ** (1 - self.strength)
        return scale.clamp(1e-4, 1e4)
