"""Takes a model, leaves it with 4-bit integer weights in groups; activations stay as they are (W4A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.methods.rounding import Ranges, round_weights
from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Int4(Config):
    """One scale per group of weights. An eighth to a quarter of the bytes; vLLM computes in 16 bits with it."""

    needs_calibration: ClassVar[bool] = False
    scheme: ClassVar[str] = "W4A16"

    kind: Literal["int4"] = "int4"
    group_size: int = Field(default=128, gt=0)
    """Weights that share a scale; must divide every layer's input width."""

    def apply(self, model: torch.nn.Module, ranges: Ranges) -> Any:
        """Round `model` in place; returns the compressor that marks its folder."""
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head" and layer.in_features % self.group_size:
                raise ConfigError(
                    f"{name} has {layer.in_features} inputs, no multiple of group_size {self.group_size}",
                    next="choose a group_size that divides it (32, 64, 128)",
                )
        # vLLM's 4-bit kernels on CPU and GPU compute in bfloat16
        model.to(torch.bfloat16)
        group = {"strategy": QuantizationStrategy.GROUP, "group_size": self.group_size}
        weights = QuantizationArgs(num_bits=4, type=QuantizationType.INT, symmetric=True, **group)
        return round_weights(model, weights, None, ranges)
