"""The `int4` method: 4-bit integer weights in groups, activations unchanged (W4A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.coverage import layers_to_round
from raylm.compress.methods.applied import Applied
from raylm.compress.methods.rounding import round_weights
from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration

# vLLM's kernel on CPUs refuses layers of other widths
WIDTH = 32


class Int4(Config):
    """One scale per group of weights. An eighth to a quarter of the bytes; vLLM computes in 16 bits with it."""

    needs: ClassVar[tuple[str, ...]] = ()
    scheme: ClassVar[str] = "W4A16"

    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["int4"] = "int4"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place."""
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        for name in layers_to_round(model)[0]:
            layer: Any = model.get_submodule(name)
            if layer.in_features % self.group_size:
                raise ConfigError(
                    f"{name} has {layer.in_features} inputs, no multiple of group_size {self.group_size}",
                    next="choose a group_size that divides it (32, 64, 128)",
                )
            if layer.in_features % WIDTH or layer.out_features % WIDTH:
                raise ConfigError(
                    f"{name} is {layer.in_features} wide and leaves {layer.out_features}; vLLM's 4-bit kernels take multiples "
                    f"of {WIDTH}",
                    next='round to 8 bits: method = {kind = "int8"}',
                )
        # vLLM's 4-bit kernels on CPU and GPU compute in bfloat16
        for weight in model.parameters():
            weight.data = weight.data.to(torch.bfloat16)
        group = {"strategy": QuantizationStrategy.GROUP, "group_size": self.group_size}
        weights = QuantizationArgs(num_bits=4, type=QuantizationType.INT, symmetric=True, **group)
        return Applied(round_weights(model, weights, None, {}))
