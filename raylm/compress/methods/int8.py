"""The `int8` method: 8-bit integer weights and activations (W8A8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raylm.compress.methods.applied import Applied
from raylm.compress.methods.rounding import round_weights
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

    @property
    def needs(self) -> tuple[str, ...]:
        """Ranges of activations that are measured first, where they are static."""
        return ("calibration",) if self.activations == "static" else ()

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place."""
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        dynamic = self.activations == "dynamic"
        weights = QuantizationArgs(num_bits=8, type=QuantizationType.INT, symmetric=True, strategy=QuantizationStrategy.CHANNEL)
        span = QuantizationStrategy.TOKEN if dynamic else QuantizationStrategy.TENSOR
        inputs = QuantizationArgs(num_bits=8, type=QuantizationType.INT, symmetric=True, strategy=span, dynamic=dynamic)
        ranges = {} if dynamic or calibration is None else calibration.absmax(model)
        return Applied(round_weights(model, weights, inputs, ranges))
