"""Attention backends on the device: each against attention written out, and its time on long rows of documents."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.bench.gpu.check import Check, Skipped, device, milliseconds
from tests.model.attention_cases import CASES, check


def written_out(backend: str, smoke: bool) -> dict[str, Any]:
    """Outputs and gradients of every case that the backend takes."""
    import torch

    dtypes = {"float32": (torch.float32, 1e-2), "bfloat16": (torch.bfloat16, 5e-2)}
    if backend == "varlen":
        del dtypes["float32"]
    found: dict[str, Any] = {}
    for case in CASES:
        for name, (dtype, tolerance) in dtypes.items():
            # flash kernels take values of another size than keys' nowhere
            if not (case == "latent" and (backend != "sdpa" or name == "bfloat16")):
                found[f"{case} {name}"] = _verdict(backend, case, dtype, tolerance)
    return {"ok": all(verdict == "ok" for verdict in found.values()), "cases": found}


def _verdict(backend: str, case: str, dtype: Any, tolerance: float) -> str:
    from raylm.core.errors import ConfigError

    try:
        check(backend, device(), dtype, tolerance, case)
    except ConfigError as refused:
        if device() == "cpu":
            raise Skipped(refused.what) from refused
        return f"refused: {refused.what}"
    except AssertionError as far:
        return f"far: {' '.join(str(far).split())[:200]}"
    return "ok"


def long_rows(backend: str, smoke: bool) -> dict[str, Any]:
    """Milliseconds forward and backward, four rows of 4,096 tokens in eight documents each, 16 heads over 8 of keys."""
    import torch

    from raylm.core.errors import ConfigError
    from raylm.model.attention import Boundaries, attend

    rows, length = (1, 64) if smoke else (4, 4096)
    kind = {"device": device(), "dtype": torch.bfloat16, "requires_grad": True}
    query, key, value = (torch.randn(rows, heads, length, 128, **kind) for heads in (16, 8, 8))
    document_BT = (torch.arange(length, device=device()) // (length // 8)).expand(rows, length).contiguous()

    def once() -> None:
        out, _ = attend(None, query, key, value, None, scaling=128**-0.5, boundaries=Boundaries(document_BT), backend=backend)
        out.float().square().sum().backward()

    try:
        return {"ms": milliseconds(once, 1 if smoke else 5)}
    except ConfigError as refused:
        raise Skipped(refused.what) from refused


CHECKS = {
    **{backend: Check(partial(written_out, backend)) for backend in ("varlen", "sdpa", "auto")},
    **{f"{backend}_long": Check(partial(long_rows, backend)) for backend in ("varlen", "sdpa")},
}
