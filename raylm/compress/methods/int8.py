"""The `int8` method: 8-bit integer weights and activations (W8A8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raylm.compress.methods.rounding import Ranges, round_weights
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch


class Int8(Config):
    """One scale per output channel for weights; integer arithmetic on CPUs and GPUs. Half to a quarter of the bytes."""

    scheme: ClassVar[str] = "W8A8"

    kind: Literal["int8"] = "int8"
    activations: Literal["static", "dynamic"] = "static"
    """`static`: one measured scale per layer, the same for every engine; `dynamic`: one scale per token, found as it runs."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ranges of activations that are measured first, where they are static."""
        return ("calibration",) if self.activations == "static" else ()

    def apply(self, model: torch.nn.Module, ranges: Ranges) -> Any:
        """Round `model` in place; returns the compressor that marks its folder."""
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        dynamic = self.activations == "dynamic"
        weights = QuantizationArgs(num_bits=8, type=QuantizationType.INT, symmetric=True, strategy=QuantizationStrategy.CHANNEL)
        span = QuantizationStrategy.TOKEN if dynamic else QuantizationStrategy.TENSOR
        inputs = QuantizationArgs(num_bits=8, type=QuantizationType.INT, symmetric=True, strategy=span, dynamic=dynamic)
        return round_weights(model, weights, inputs, ranges)
