"""The `fp8` method: 8-bit floating-point weights and activations (e4m3, W8A8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raylm.compress.methods.applied import Applied
from raylm.compress.methods.rounding import round_weights
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class Fp8(Config):
    """One scale per output channel for weights. GPUs since Ada compute in it; it keeps outliers better than int8."""

    scheme: ClassVar[str] = ""
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["fp8"] = "fp8"
    activations: Literal["dynamic", "static"] = "dynamic"
    """`dynamic`: one scale per token, found as it runs; `static`: one measured scale per layer."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ranges of activations that are measured first, where they are static."""
        return ("calibration",) if self.activations == "static" else ()

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place."""
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        dynamic = self.activations == "dynamic"
        ranges = {} if dynamic or calibration is None else calibration.absmax(model)
        form = {"num_bits": 8, "type": QuantizationType.FLOAT, "symmetric": True}
        weights = QuantizationArgs(**form, strategy=QuantizationStrategy.CHANNEL)
        span = QuantizationStrategy.TOKEN if dynamic else QuantizationStrategy.TENSOR
        return Applied(round_weights(model, weights, QuantizationArgs(**form, strategy=span, dynamic=dynamic), ranges))
