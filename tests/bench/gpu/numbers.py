"""Narrow formats on the device: bfloat16 and float8 against float32, over a short training run and product by product."""

from __future__ import annotations

from typing import Any

from tests.bench.gpu.check import Check, Skipped, apart, device, milliseconds, trained

STEPS = 20


def bfloat16(smoke: bool) -> dict[str, Any]:
    """The same losses to two digits; how much faster and smaller."""
    steps = 4 if smoke else STEPS
    wide, narrow = (trained({"dtype": dtype}, smoke=smoke, steps=steps) for dtype in ("float32", "bfloat16"))
    far = apart(narrow.losses, wide.losses)
    learns = smoke or narrow.losses[-1] < narrow.losses[0] - 0.5
    return {"ok": far < 2e-2 and learns, "difference": far, "last": [wide.losses[-1], narrow.losses[-1]],
            "speed": wide.step_s / narrow.step_s, "gb": narrow.peak / 1e9, "float32_gb": wide.peak / 1e9}  # fmt: skip


def float8_product(smoke: bool) -> dict[str, Any]:
    """One product against float32, and its time against bfloat16's."""
    import torch

    from raylm.parallel.precision import product

    _need_float8()
    size = 256 if smoke else 4096
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    exact = left.float() @ right.float()
    far = float((product(left, right).float() - exact).norm() / exact.norm())
    ours, theirs = milliseconds(lambda: product(left, right), 5), milliseconds(lambda: left @ right, 5)
    return {"ok": far < 0.06, "difference": far, "ms": ours, "bfloat16_ms": theirs}


def float8_training(smoke: bool) -> dict[str, Any]:
    _need_float8()
    steps = 4 if smoke else STEPS
    wide, narrow = (trained({"dtype": dtype}, smoke=smoke, steps=steps) for dtype in ("bfloat16", "float8"))
    far = apart(narrow.losses, wide.losses)
    return {"ok": far < 5e-2, "difference": far, "last": [wide.losses[-1], narrow.losses[-1]],
            "speed": wide.step_s / narrow.step_s, "gb": narrow.peak / 1e9}  # fmt: skip


def float8_compiled(smoke: bool) -> dict[str, Any]:
    """Scales and casts fused into kernels: what float8 is for."""
    _need_float8()
    wide, narrow = (trained({"dtype": d, "compile": True}, smoke=smoke, steps=8) for d in ("bfloat16", "float8"))
    return {"ok": apart(narrow.losses, wide.losses) < 5e-2, "speed": wide.step_s / narrow.step_s, "gb": narrow.peak / 1e9}


def _need_float8() -> None:
    from raylm.core.errors import ConfigError
    from raylm.parallel.precision import check_float8

    try:
        check_float8(device())
    except ConfigError as refused:
        raise Skipped(refused.what) from refused


CHECKS = {
    "bfloat16": Check(bfloat16),
    "float8_product": Check(float8_product),
    "float8_training": Check(float8_training),
    "float8_compiled": Check(float8_compiled, 120),
}
