"""Scales for keys and values that an engine keeps in 8 bits (fp8 e4m3): measured on calibration rows, written beside the weights.

Without them an engine that is told `kv_cache_dtype = "fp8"` takes 1.0 for every layer, whatever its keys look like.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from raylm.compress.blocks import texts
from raylm.compress.methods.applied import Applied
from raylm.core.config import Config
from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration


class Seen(NamedTuple):
    """Largest magnitude of the keys and of the values of one attention layer, by head: [heads]."""

    keys: torch.Tensor
    values: torch.Tensor
    width: int
    """Numbers that one token leaves in the cache of this layer."""


class KvCache(Config):
    """fp8 keys and values in the cache of engines that serve this checkpoint: half the memory of 16 bits. GPUs since Ada and CPUs
    with AVX-512 read them; https://github.com/vllm-project/compressed-tensors calls it `kv_cache_scheme`."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    scales: Literal["tensor", "head"] = "tensor"
    """One scale of the keys and one of the values in each layer, or one for each of its heads. vLLM 0.32 uses those of heads on
    GPUs with FlashAttention alone."""

    def measure(self, model: Any, calibration: Calibration, compressor: Any = None) -> dict[str, Seen]:
        """What comes to the cache of each attention layer, by the layer's name, as the model is now: its weights may be rounded
        and packed, and methods move size from values into the layer behind them.

        Args:
            compressor: that packed them.

        Raises:
            ConfigError: keys and values of this family are not where compressed-tensors puts scales.
            DataError: they are not all finite.
        """
        import torch
        from compressed_tensors.quantization.lifecycle.initialize import is_attention_module

        model = _unpacked(model, compressor) if compressor else model
        layers = {name: module for name, module in model.named_modules() if is_attention_module(module)}
        found: dict[int, Seen] = {}
        with torch.no_grad():
            for ids in calibration.batches(next(model.parameters()).device):
                model(**{**texts(model, ids), "use_cache": True, "past_key_values": _recording(model.config, found)})
        places = {getattr(module, "layer_idx", None): name for name, module in layers.items()}
        latent = any(hasattr(module, "kv_b_proj") for module in layers.values())
        if not layers or latent or len(places) != len(layers) or set(places) != set(found):
            raise ConfigError(
                f"an 8-bit cache has no scales for {type(model).__name__}: {len(layers)} attention layers of it can hold them, "
                f"{len(found)} came to the cache{', as latent states' if latent else ''}",
                next="drop kv_cache, or say kv_cache_dtype where the model is served: engines then scale by 1.0",
            )
        for index, seen in found.items():
            if not bool((seen.keys + seen.values).isfinite().all()):
                raise DataError(f"on the calibration rows, keys or values of {places[index]} are not finite")
        return {places[index]: seen for index, seen in found.items()}

    def apply(self, model: Any, applied: Applied, seen: dict[str, Seen]) -> Applied:
        """Put scales on the attention layers of `model`, whose weights `applied` has rounded or left; it then computes with keys
        and values as an engine keeps them.

        Args:
            seen: of `measure`.
        """
        import torch
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.modeling.kvcache import initialize_hooked_kv_cache
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            QuantizationStatus,
            QuantizationStrategy,
            QuantizationType,
        )
        from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
        from compressed_tensors.quantization.utils import KV_CACHE_TARGETS, calculate_qparams

        by_head = self.scales == "head"
        strategy = QuantizationStrategy.ATTN_HEAD if by_head else QuantizationStrategy.TENSOR
        args = QuantizationArgs(num_bits=8, type=QuantizationType.FLOAT, symmetric=True, strategy=strategy, dynamic=False)
        compressor: Any = applied.compressor
        if compressor is None:
            # nothing is packed: the weights are as they were
            status = QuantizationStatus.FROZEN
            config = QuantizationConfig(config_groups={}, format="dense", quantization_status=status)
            compressor = ModelCompressor(quantization_config=config)
        compressor.quantization_config.kv_cache_scheme = args
        dtype = model.get_input_embeddings().weight.dtype
        for name, each in seen.items():
            layer = model.get_submodule(name)
            layer.quantization_scheme = QuantizationScheme(targets=KV_CACHE_TARGETS.copy(), input_activations=args)
            initialize_hooked_kv_cache(model, layer)
            initialize_module_for_quantization(layer, force_zero_point=False)
            layer.quantization_status = compressor.quantization_config.quantization_status
            for what, largest in (("k", each.keys), ("v", each.values)):
                most = (largest if by_head else largest.amax()[None]).float()
                shape = getattr(layer, f"{what}_scale").shape
                # in the format that the files are loaded in: a layer of packed weights has none of its own to follow
                scale = calculate_qparams(-most, most, args)[0].reshape(shape).to(dtype)
                setattr(layer, f"{what}_scale", torch.nn.Parameter(scale, requires_grad=False))
        width = sum(each.width for each in seen.values())
        facts = {"kv_cache": {"dtype": "fp8_e4m3", "scales": self.scales}}
        sizes = {"cache_bytes_per_token": float(width), "cache_bytes_per_token_before": float(width * dtype.itemsize)}
        return applied._replace(compressor=compressor, facts=applied.facts | facts, metrics=applied.metrics | sizes)


def _unpacked(model: Any, compressor: Any) -> Any:
    """A copy of `model` that runs: run itself it would unpack its weights for good, and mark them so in its config."""
    from compressed_tensors.compressors import decompress_module
    from compressed_tensors.quantization.utils import is_module_quantized

    compressor.remove_decompression_hook(model)
    copied = copy.deepcopy(model)
    compressor.add_decompress_hook(model)
    for module in copied.modules():
        if is_module_quantized(module):
            decompress_module(module)
    return copied


def _recording(config: Any, found: dict[int, Seen]) -> Any:
    """An empty cache of transformers that notes in `found` what comes to it, by layer: keys behind the rotation, as engines keep
    them, and all of them, also where a layer keeps a window."""
    import torch
    from transformers.cache_utils import DynamicCache

    class Recording(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            keys, values = (each.detach().abs().amax((0, 2, 3)).float().cpu() for each in (key_states, value_states))
            before = found.get(layer_idx, Seen(keys, values, 0))
            width = key_states.shape[1] * key_states.shape[3] + value_states.shape[1] * value_states.shape[3]
            # torch's maximum keeps NaN
            found[layer_idx] = Seen(torch.maximum(before.keys, keys), torch.maximum(before.values, values), width)
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    return Recording(config=config.get_text_config(decoder=True))
