"""The `int8` method: 8-bit integer weights and activations (W8A8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raylm.compress.coverage import layers_to_round
from raylm.compress.methods.applied import Applied
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.rounding import Scales, round_weights
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class Int8(Config):
    """One scale per output channel for weights; integer arithmetic on CPUs and GPUs. Half to a quarter of the bytes."""

    scheme: ClassVar[str] = "W8A8"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["int8"] = "int8"
    activations: Literal["static", "dynamic"] = "static"
    """`static`: one measured scale per layer, the same for every engine; `dynamic`: one scale per token, found as it runs."""
    observer: Literal["minmax", "mse"] = "minmax"
    """`minmax`: the largest weight of a channel sets its scale; `mse`: the scale of the smallest squared error is searched."""
    reduce_range: bool = False
    """Weights within -64 and 64: one bit less, and exact on every CPU. On x86 CPUs without VNNI instructions, 8-bit products are
    summed in pairs in 16 bits, and of larger weights these sums can overflow, so engines refuse such checkpoints there."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ranges of activations that are measured first, where they are static."""
        return ("calibration",) if self.activations == "static" else ()

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place."""
        grid = Grid(8, reduced=self.reduce_range)
        dynamic = self.activations == "dynamic"
        ranges = {} if dynamic or calibration is None else calibration.absmax(model)
        scales = eight_bit_scales(model, grid, self.observer == "mse")
        return Applied(round_weights(model, grid.arguments(), eight_bit_inputs(dynamic), ranges, scales))


def eight_bit_scales(model: torch.nn.Module, grid: Grid, search: bool = False) -> Scales:
    """Of the weights of each layer that is rounded, where they are not compressed-tensors' own; a reduced grid's weights lie on
    it afterwards, in place."""
    scales: Scales = {}
    for name in layers_to_round(model)[0] if search or grid.reduced else ():
        layer: Any = model.get_submodule(name)
        grid.check(name, layer)
        weight_OI = layer.weight.data
        scales[name] = grid.search(weight_OI) if search else grid.widest(weight_OI)
        if grid.reduced:
            grid.snap(weight_OI, scales[name])
    return scales


def eight_bit_inputs(dynamic: bool) -> Any:
    """compressed_tensors QuantizationArgs of 8-bit activations: one scale per layer, or per token as it runs."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

    span = QuantizationStrategy.TOKEN if dynamic else QuantizationStrategy.TENSOR
    return QuantizationArgs(num_bits=8, type=QuantizationType.INT, symmetric=True, strategy=span, dynamic=dynamic)
