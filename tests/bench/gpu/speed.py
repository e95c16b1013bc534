"""Tokens per second, MFU and memory of raylm's loop and of torch's and transformers' own: one round of `gpu_speed`."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from tests.bench.gpu.check import Check, device, need

FIRST: dict[str, dict[str, Any]] = {}
"""What was measured by this process: the second contestant is compared with the first."""


def contestant(name: str, smoke: bool) -> dict[str, Any]:
    if name == "ours":
        need("pyarrow")  # the loop writes its ledger of rows
    os.environ |= {"RAYLM_GPU_SHAPE": "tiny" if smoke or device() == "cpu" else "1b", "RAYLM_GPU_WARM": "4"}
    os.environ["RAYLM_GPU_STEPS"] = "8" if smoke else "12"
    from tests.bench import gpu_speed
    from tests.bench.pretrain import gpu_work

    made = FIRST[name] = gpu_speed.contestant(name)
    peak = gpu_speed.peak_of(made["device"])
    found = {"tokens_per_s": made["tokens_per_s"], "memory_gb": made["memory_gb"], "losses": made["losses"][:5]}
    if peak:
        found["mfu"] = made["tokens_per_s"] * gpu_speed._flops() / peak
    if name == "theirs" and "ours" in FIRST:
        ours = FIRST["ours"]
        far = max(abs(a - b) for a, b in zip(ours["losses"][: gpu_work.COMPARED], made["losses"], strict=False))
        ratio = ours["tokens_per_s"] / made["tokens_per_s"]
        found |= {"ratio": ratio, "memory_ratio": made["memory_gb"] / ours["memory_gb"], "loss_difference": far}
        found["ok"] = far < gpu_speed.MOST_FAR and (smoke or ratio >= 1.0)
    return found


CHECKS = {name: Check(partial(contestant, name), 150) for name in ("ours", "theirs")}
