"""Takes a GPU, a Llama of 0.89 B parameters and rows, leaves tokens per second, MFU and peak memory of raylm's loop without Ray
and of torch's and transformers' own: processes of their own, alternating, medians of rounds.

Equal micro batches. RAYLM_GPU_SHAPE=tiny is a smoke run that CPUs do too: its speed says nothing, so `ok` is of the losses alone.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
from itertools import pairwise
from typing import Any

from tests.bench.near_copies.peers import timed
from tests.bench.pretrain import gpu_work as work

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))
GOAL_MFU, MOST_FAR = 0.5, 0.05
# of cards that share a name with one in devices.toml and compute less
LESSER = {"pcie", "nvl", "mig", "laptop", "d"}


def main() -> None:
    is_smoke = work.NAME == "tiny"
    if work.device() == "cpu" and not is_smoke:
        sys.exit("no GPU here; next: RAYLM_GPU_SHAPE=tiny for a smoke run on the CPU")
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for turn in range(ROUNDS):
        for name, rounds in found.items():
            made = contestant(name)
            rounds.append(made)
            print(f"round {turn}, {name}: {made['tokens_per_s']:.0f} tokens/s, {made['memory_gb']:.2f} GB", flush=True)
    speed, memory = (
        {name: statistics.median(one[key] for one in rounds) for name, rounds in found.items()}
        for key in ("tokens_per_s", "memory_gb")
    )
    device = found["ours"][0]["device"]
    peak = peak_of(device)
    mfu = {name: value * _flops() / peak if peak else None for name, value in speed.items()}
    pairs = list(zip(found["ours"][0]["losses"], found["theirs"][0]["losses"], strict=True))
    far = max(abs(ours - theirs) for ours, theirs in pairs[: work.COMPARED])
    ratio = speed["ours"] / speed["theirs"]
    is_fast = is_smoke or (ratio >= 1.0 and (mfu["ours"] is None or mfu["ours"] >= GOAL_MFU))
    print(
        json.dumps(
            {
                "name": "gpu_speed",
                "peer": "torch + transformers' own loop",
                "peer_version": f"{_version('torch')}, {_version('transformers')}",
                "ours": round(speed["ours"], 1),
                "theirs": round(speed["theirs"], 1),
                "unit": "tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.0,
                "mfu": {name: value and round(value, 4) for name, value in mfu.items()},
                "goal_mfu": GOAL_MFU,
                "memory_gb": {name: round(value, 3) for name, value in memory.items()},
                "device": device,
                "shape": {"name": work.NAME, **work.WORK._asdict(), "rounds": ROUNDS},
                "quality": {f"largest loss difference, {work.COMPARED} steps": far, "last losses": pairs[-1]},
                "ok": far < MOST_FAR and is_fast,
            }
        )
    )


def contestant(name: str) -> dict[str, Any]:
    _, printed = timed([sys.executable, "-m", f"tests.bench.pretrain.gpu_{name}"])
    return json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"tokens_per_s"')))


def peak_of(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of the GPU that torch calls `name`; None where that is not known."""
    from raylm.trainer.forecast.devices import devices

    words = re.findall(r"[a-z0-9]+", name.lower())
    # "RTX 4090" is rtx4090 in the table
    words += [left + right for left, right in pairwise(words)]
    if LESSER & set(words):
        return None
    fitting = [known for known in devices() if set(known.split("-")) <= set(words)]
    return devices()[max(fitting, key=len)].bfloat16 * 1e12 if fitting else None


def _flops() -> float:
    """Of one token, forward and backward."""
    from raylm.model.flops import flops_per_token
    from raylm.model.shapes.llama import Llama

    return flops_per_token(Llama.model_validate(work.SHAPE).config(work.TOKENS), work.WORK.length)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    main()
