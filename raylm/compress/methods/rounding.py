"""Rounds a model to nearest by compressed-tensors' schemes, scales and packing, with measured activation ranges.

llmcompressor's recipes (GPTQ, AWQ) pin another compressed-tensors than vLLM does: they cannot be in one environment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.compress.coverage import layers_to_round
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

Ranges = dict[str, float]
"""Largest magnitude that entered each linear layer, by the layer's name."""
Scales = dict[str, "torch.Tensor"]
"""Of the weights of each linear layer, [outputs, groups]."""


class Rounding(NamedTuple):
    """How one linear layer is rounded."""

    weights: Any
    """compressed_tensors QuantizationArgs."""
    inputs: Any = None
    """Those of its activations; None leaves them alone."""
    scale: torch.Tensor | None = None
    """Of its weights, [outputs, groups]; None for that of the largest weight."""


def round_weights(model: torch.nn.Module, weights: Any, inputs: Any, ranges: Ranges, scales: Scales | None = None) -> Any:
    """Round every linear layer but the output head to nearest; returns the compressor, whose `update_config` marks a folder
    and names what was left.

    Args:
        weights, inputs: compressed_tensors QuantizationArgs of weights and of activations (None leaves them alone).
        ranges: needed when `inputs` is static.
        scales: of the weights; where a layer has none, that of its largest weight.

    Raises:
        ConfigError: linear layers are not what holds the model's parameters.
        DataError: weights or measured activations are not finite, or nothing was measured.
    """
    rounded, kept = layers_to_round(model)
    return round_layers(model, {name: Rounding(weights, inputs, (scales or {}).get(name)) for name in rounded}, kept, ranges)


def round_layers(model: torch.nn.Module, roundings: dict[str, Rounding], kept: list[str], ranges: Ranges) -> Any:
    """Round each named linear layer in its own way; see `round_weights`. Layers of one way are one group of the config."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    groups: dict[str, list[str]] = {}
    for name, how in roundings.items():
        groups.setdefault(repr((how.weights, how.inputs)), []).append(name)
    schemes = {}
    for index, names in enumerate(groups.values()):
        how = roundings[names[0]]
        targets = ["Linear"] if len(groups) == 1 else names
        schemes[f"group_{index}"] = QuantizationScheme(targets=targets, weights=how.weights, input_activations=how.inputs)
    apply_quantization_config(
        model, QuantizationConfig(config_groups=schemes, ignore=kept, quantization_status=QuantizationStatus.INITIALIZED)
    )
    for name, how in roundings.items():
        layer: Any = model.get_submodule(name)
        lowest, highest = _extremes(layer.weight.data, how.weights)
        if not bool((lowest.isfinite() & highest.isfinite()).all()):
            raise DataError(f"the weights of {name} are not all finite", next="find out in which training stage they broke")
        scale, zero_point = calculate_qparams(lowest, highest, how.weights)
        _set(layer, "weight", scale if how.scale is None else how.scale, zero_point)
        if how.inputs is not None and not how.inputs.dynamic:
            largest = layer.weight.data.new_tensor([_range(ranges, name)])
            _set(layer, "input", *calculate_qparams(-largest, largest, how.inputs))
    compressor = ModelCompressor.from_pretrained_model(model)
    if compressor.quantization_config is not None:
        compressor.quantization_config.ignore = kept
    compressor.compress_model(model)
    return compressor


def to_half(model: torch.nn.Module) -> None:
    """Parameters in bfloat16, which vLLM's 4-bit kernels on CPU and GPU compute in."""
    import torch

    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)


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
