"""Fused kernels (Liger) for norms, rotary positions and gated layers, where they run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from raylm.core.errors import ConfigError

# the output layer and the loss are raylm's own, see raylm/model/head.py
FUSED = {"rope": True, "rms_norm": True, "layer_norm": True, "swiglu": True, "geglu": True}
OWN = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def fuse_kernels(model: Any, requested: str, device: str) -> bool:
    """Patch in Liger's kernels (https://arxiv.org/abs/2410.10989); names and weights stay. Returns whether it did.

    Args:
        requested: `liger`, or `auto`: where they run.

    Raises:
        ConfigError: they were requested by name and do not run.
    """
    lacks = _lacking(model, device)
    if lacks and requested == "liger":
        raise ConfigError(f"kernels = 'liger' cannot run: {lacks}", next="set kernels = 'auto'")
    if lacks:
        return False
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {**FUSED, **OWN})
    return True


def _lacking(model: Any, device: str) -> str | None:
    if device != "cuda":
        return f"they are made for GPUs, this is {device}"
    if not find_spec("liger_kernel"):
        return "liger-kernel is not installed"
    known = import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
    kind = model.config.model_type
    return None if kind in known else f"there are none for model_type {kind}"
