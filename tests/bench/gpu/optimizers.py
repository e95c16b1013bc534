"""Optimizers on the device: each kind against the CPU; 8-bit and paged moments against 32 bits, saved and loaded."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.bench.gpu.check import Check, apart, device, need, need_gpu, trained


def same_as_cpu(kind: str, smoke: bool) -> dict[str, Any]:
    table = {"optimizer": {"kind": kind, "lr": 1e-3, "warmup": 2}}
    here, there = (trained(table, smoke=smoke, steps=5, tiny=True, at=at).losses for at in (device(), "cpu"))
    # Muon orthogonalises in bfloat16
    return {"ok": apart(here, there) < (1e-2 if kind == "muon" else 1e-4), "difference": apart(here, there)}


def eight_bit(paged: bool, smoke: bool) -> dict[str, Any]:
    """Losses and memory against 32 bits; the state after a load is the state that was saved."""
    import torch

    need("bitsandbytes")
    if paged:
        need_gpu("moments are paged from GPUs")
    table = {"dtype": "bfloat16", "optimizer": {"lr": 3e-4, "warmup": 2}}
    wide = trained(table, smoke=smoke, steps=10)
    narrow = trained({**table, "optimizer": {**table["optimizer"], "bits": 8, "paged": paged}}, smoke=smoke, steps=10)
    far, optimizer = apart(narrow.losses, wide.losses), narrow.engine.optimizer
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    again = optimizer.state_dict()
    equal = all(
        torch.equal(value, again["state"][index][name])
        for index, state in saved["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    )
    return {"ok": far < 2e-2 and equal, "difference": far, "state_equal": equal, "gb": narrow.peak / 1e9,
            "adamw_gb": wide.peak / 1e9, "time": narrow.step_s / wide.step_s}  # fmt: skip


CHECKS = {
    "eight_bit": Check(partial(eight_bit, False)),
    "paged": Check(partial(eight_bit, True)),
    **{kind: Check(partial(same_as_cpu, kind)) for kind in ("adamw", "muon", "lion", "adafactor")},
}
