"""Trainable tokens per second of packed QLoRA: raylm's train stage against peft and transformers' Trainer, both beside a base in
NF4 by bitsandbytes.

The same model, packed rows, order and rank: the losses of all steps are equal. The model is that of the other fine-tuning
benchmarks but for its 704 hidden neurons in place of 688: of rows that are no whole blocks of 64 bitsandbytes 0.50.2 takes wrong
scales on CPUs with AVX-512, and the two would not learn beside the same base.
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

from tests.bench.finetune import work
from tests.bench.sft_speed import contestant

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as at:
        work.save_model(Path(at) / "model", intermediate_size=704)
        work.save_dialogues(Path(at))
        commands: dict[str, list[str | Path]] = {
            "theirs": [sys.executable, "-m", "tests.bench.finetune.with_peft", at],
            "ours": [sys.executable, "-m", "tests.bench.finetune.ours", at, "qlora"],
        }
        for turn in range(ROUNDS):
            for name, command in commands.items():
                found[name].append(contestant(command))
                print(f"round {turn}, {name}: {found[name][-1]['tokens_per_s']:.0f} trainable tokens/s", flush=True)
    speed = {name: statistics.median(one["tokens_per_s"] for one in made) for name, made in found.items()}
    pairs = list(zip(found["ours"][0]["losses"], found["theirs"][0]["losses"], strict=True))
    far = max(abs(left - right) for left, right in pairs)
    ratio = speed["ours"] / speed["theirs"]
    print(
        json.dumps(
            {
                "name": "qlora_speed",
                "peer": "peft + transformers Trainer, NF4 by bitsandbytes",
                "peer_version": f"{version('peft')} + {version('transformers')}, {version('bitsandbytes')}",
                "ours": round(speed["ours"], 1),
                "theirs": round(speed["theirs"], 1),
                "unit": "trainable tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.15,
                "first_step_s": {
                    name: round(statistics.median(one["first_step_s"] for one in made), 1) for name, made in found.items()
                },
                "quality": {"largest difference of a step's loss": far, "first and last loss": [pairs[0][0], pairs[-1][0]]},
                "ok": ratio >= 1.15 and far < 2e-3,
            }
        )
    )


if __name__ == "__main__":
    main()
