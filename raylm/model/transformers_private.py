"""What raylm reads of transformers' private attributes, all in one place; tests/model/test_transformers_private.py names the
version."""

from __future__ import annotations

from typing import Any


def attention_of(model: Any) -> str:
    """Name of the attention implementation that `model` runs."""
    return str(model.config._attn_implementation)


def has_attention_backends(model: Any) -> bool:
    """Whether the attention of `model` can be exchanged."""
    return bool(getattr(model, "_supports_attention_backend", False))


def model_classes(auto: Any) -> Any:
    """Mapping from config class to model class of one of transformers' auto classes."""
    return auto._model_mapping


def ignored_on_save(model: Any) -> set[str]:
    """Names of tensors that a checkpoint of this class leaves out."""
    return set(model._keys_to_ignore_on_save or ())


def unsplit_classes(module: Any) -> set[str]:
    """Names of the classes that the model's own says must not be split over devices."""
    return set(getattr(module, "_no_split_modules", None) or ())


def recorded_routers(module: Any) -> Any:
    """How transformers records router logits of a model: an OutputRecorder, None where it does not."""
    return (getattr(module, "_can_record_outputs", None) or {}).get("router_logits")


def apply_gate(experts: Any, gate_up: Any) -> Any:
    """The activation between the two matrices of experts that lie in one tensor."""
    return experts._apply_gate(gate_up)


def kept_in_float32(model: Any) -> set[str]:
    """Last parts of the names of modules that the model's class keeps in float32: it looks at the dtype of their weights."""
    named = getattr(model, "_keep_in_fp32_modules", None) or ()
    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return {str(name).rsplit(".", 1)[-1] for name in (*named, *strict)}


def forget_quantization(model: Any) -> None:
    """Let a model that was loaded in 4 bits be one like others: its layers have become raylm's own."""
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_4bit_serializable"):
        if name in vars(model):
            delattr(model, name)
