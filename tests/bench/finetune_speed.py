"""Trainable tokens per second of packed LoRA: raylm's train stage against axolotl, which lives in an environment of its own.

The same model, dialogues, rank and slots per step; whole processes, alternating.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.finetune import work
from tests.bench.near_copies.peers import python_of
from tests.bench.sft_speed import contestant

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))
AXOLOTL = "0.19.0"


def main() -> None:
    peer = python_of("axolotl", f"axolotl=={AXOLOTL}")
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as at:
        work.save_model(Path(at) / "model")
        work.save_dialogues(Path(at))
        commands: dict[str, list[str | Path]] = {
            "theirs": [peer, "-m", "tests.bench.finetune.with_axolotl", at],
            "ours": [sys.executable, "-m", "tests.bench.finetune.ours", at, "lora"],
        }
        for turn in range(ROUNDS):
            for name, command in commands.items():
                found[name].append(contestant(command))
                print(f"round {turn}, {name}: {found[name][-1]['tokens_per_s']:.0f} trainable tokens/s", flush=True)
    speed = {name: statistics.median(one["tokens_per_s"] for one in made) for name, made in found.items()}
    # both see the same dialogues in another order: the losses of the last steps are alike, not equal
    last = {name: statistics.mean(made[0]["losses"][-5:]) for name, made in found.items()}
    apart = abs(last["ours"] / last["theirs"] - 1)
    ratio = speed["ours"] / speed["theirs"]
    print(
        json.dumps(
            {
                "name": "finetune_speed",
                "peer": "axolotl, packed LoRA",
                "peer_version": AXOLOTL,
                "ours": round(speed["ours"], 1),
                "theirs": round(speed["theirs"], 1),
                "unit": "trainable tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.15,
                "first_step_s": {
                    name: round(statistics.median(one["first_step_s"] for one in made), 1) for name, made in found.items()
                },
                "quality": {"last losses": {name: round(loss, 3) for name, loss in last.items()}, "apart": round(apart, 4)},
                "ok": ratio >= 1.15 and apart < 0.05,
            }
        )
    )


if __name__ == "__main__":
    main()
