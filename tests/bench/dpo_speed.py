"""Trainable tokens per second of DPO: raylm's train stage against TRL's DPOTrainer.

The same model, pairs, batches, loss and way of the reference's scores (computed in every step, or once ahead); whole processes,
alternating. TRL 1.16 is the newest that installs beside this vLLM and transformers; its padding-free batches are switched off
since a refactor, so it pads.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.preference import work
from tests.bench.sft_speed import contestant

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))
WAYS = tuple(os.environ.get("RAYLM_REFERENCES", "live").split(","))


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as at:
        work.save_model(Path(at) / "model")
        work.save_pairs(Path(at))
        for turn in range(ROUNDS):
            for way in WAYS:
                for name in ("ours", "with_trl"):
                    made = contestant([sys.executable, "-m", f"tests.bench.preference.{name}", at, way])
                    found.setdefault(f"{name} {way}", []).append(made)
                    print(f"round {turn}, {name}, {way}: {made['tokens_per_s']:.0f} trainable tokens/s", flush=True)
    speed = {name: statistics.median(one["tokens_per_s"] for one in made) for name, made in found.items()}
    first = {name: round(statistics.median(one["first_step_s"] for one in made), 1) for name, made in found.items()}
    ratios = {way: speed[f"ours {way}"] / speed[f"with_trl {way}"] for way in WAYS}
    losses = [made[0]["losses"] for made in found.values()]
    # TRL reports its losses to four digits
    apart = max(abs(left - right) for of in losses for left, right in zip(of, losses[0], strict=True))
    ratio = min(ratios.values())
    print(
        json.dumps(
            {
                "name": "dpo_speed",
                "peer": "TRL DPOTrainer (padded: its padding_free is switched off)",
                "peer_version": f"{version('trl')}, the newest that installs here",
                "ours": {way: round(speed[f"ours {way}"], 1) for way in WAYS},
                "theirs": {way: round(speed[f"with_trl {way}"], 1) for way in WAYS},
                "unit": "trainable tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.5,
                "ratios": {way: round(value, 3) for way, value in ratios.items()},
                "first_step_s": first,
                "quality": {"largest difference of a loss": round(apart, 6), "last losses": [round(of[-1], 4) for of in losses]},
                "ok": ratio >= 1.5 and apart < 1e-3,
            }
        )
    )


if __name__ == "__main__":
    main()
