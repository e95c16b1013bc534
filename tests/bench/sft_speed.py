"""Trainable tokens per second of supervised fine-tuning: raylm's train stage against TRL's SFTTrainer with its packing on.

The same model, dialogues, loss (on answers alone) and slots per step; full training and LoRA, whole processes, alternating.
1.16 is the newest TRL that installs beside this vLLM and transformers.
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
from tests.bench.near_copies.peers import timed

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as at:
        work.save_model(Path(at) / "model")
        work.save_dialogues(Path(at))
        for turn in range(ROUNDS):
            for kind in ("full", "lora"):
                for name in ("ours", "with_trl"):
                    made = contestant([sys.executable, "-m", f"tests.bench.finetune.{name}", at, kind])
                    found.setdefault(f"{name} {kind}", []).append(made)
                    print(f"round {turn}, {name}, {kind}: {made['tokens_per_s']:.0f} trainable tokens/s", flush=True)
    speed = {name: statistics.median(one["tokens_per_s"] for one in made) for name, made in found.items()}
    first = {name: round(statistics.median(one["first_step_s"] for one in made), 1) for name, made in found.items()}
    ratios = {kind: speed[f"ours {kind}"] / speed[f"with_trl {kind}"] for kind in ("full", "lora")}
    # both see the same dialogues in another order: the losses of the last steps are alike, not equal
    last = {name: statistics.mean(made[0]["losses"][-5:]) for name, made in found.items()}
    apart = max(abs(last[f"ours {kind}"] / last[f"with_trl {kind}"] - 1) for kind in ("full", "lora"))
    ratio = min(ratios.values())
    print(
        json.dumps(
            {
                "name": "sft_speed",
                "peer": "TRL SFTTrainer, packing on",
                "peer_version": version("trl"),
                "ours": {kind: round(speed[f"ours {kind}"], 1) for kind in ("full", "lora")},
                "theirs": {kind: round(speed[f"with_trl {kind}"], 1) for kind in ("full", "lora")},
                "unit": "trainable tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.5,
                "ratios": {kind: round(value, 3) for kind, value in ratios.items()},
                "first_step_s": first,
                "quality": {"last losses": {name: round(loss, 3) for name, loss in last.items()}, "apart": round(apart, 4)},
                "ok": ratio >= 1.5 and apart < 0.05,
            }
        )
    )


def contestant(command: list[str | Path]) -> dict[str, Any]:
    """What the process reported as its last line."""
    _, printed = timed(command)
    return json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"tokens_per_s"')))


if __name__ == "__main__":
    main()
