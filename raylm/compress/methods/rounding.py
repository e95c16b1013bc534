"""Rounds a model to nearest by compressed-tensors' schemes, scales and packing, with measured activation ranges.

llmcompressor's recipes (GPTQ, AWQ) pin another compressed-tensors than vLLM does: they cannot be in one environment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raylm.compress.coverage import layers_to_round
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

Ranges = dict[str, float]
"""Largest magnitude that entered each linear layer, by the layer's name."""


def round_weights(model: torch.nn.Module, weights: Any, inputs: Any, ranges: Ranges) -> Any:
    """Round every linear layer but the output head to nearest; returns the compressor, whose `update_config` marks a folder
    and names what was left.

    Args:
        weights, inputs: compressed_tensors QuantizationArgs of weights and of activations (None leaves them alone).
        ranges: needed when `inputs` is static.

    Raises:
        ConfigError: linear layers are not what holds the model's parameters.
        DataError: weights or measured activations are not finite, or nothing was measured.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    rounded, kept = layers_to_round(model)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    apply_quantization_config(
        model,
        QuantizationConfig(config_groups={"group_0": scheme}, ignore=kept, quantization_status=QuantizationStatus.INITIALIZED),
    )
    for name in rounded:
        layer: Any = model.get_submodule(name)
        lowest, highest = _extremes(layer.weight.data, weights)
        if not bool((lowest.isfinite() & highest.isfinite()).all()):
            raise DataError(f"the weights of {name} are not all finite", next="find out in which training stage they broke")
        _set(layer, "weight", *calculate_qparams(lowest, highest, weights))
        if inputs is not None and not inputs.dynamic:
            largest = layer.weight.data.new_tensor([_range(ranges, name)])
            _set(layer, "input", *calculate_qparams(-largest, largest, inputs))
    compressor = ModelCompressor.from_pretrained_model(model)
    if compressor.quantization_config is not None:
        compressor.quantization_config.ignore = kept
    compressor.compress_model(model)
    return compressor


def _range(ranges: Ranges, name: str) -> float:
    if not math.isfinite(ranges.get(name, math.nan)):
        found = f"are {ranges[name]}" if name in ranges else "were never seen"
        raise DataError(f"on the calibration rows, the activations that enter {name} {found}", next="take other rows, or int4")
    return ranges[name]


def _extremes(weight: torch.Tensor, args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest weight of each group or output channel."""
    if str(getattr(args.strategy, "value", args.strategy)) == "group":
        grouped = weight.view(weight.shape[0], -1, args.group_size)
        return grouped.amin(-1), grouped.amax(-1)
    return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)


def _set(layer: Any, what: str, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
    getattr(layer, f"{what}_scale").data.copy_(scale.reshape(getattr(layer, f"{what}_scale").shape))
    point = getattr(layer, f"{what}_zero_point", None)
    if point is not None:
        point.data.copy_(zero_point.reshape(point.shape))
