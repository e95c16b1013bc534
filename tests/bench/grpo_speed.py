"""Seconds of GRPO to a mean reward of 0.95, and per step: raylm with Ray and vLLM in the loop against TRL's GRPOTrainer.

The same random model of 74 thousand parameters, prompts, reward, completions a step, optimizer and loss; whole processes,
alternating. TRL draws with transformers, as it does where no vLLM server runs beside it; at the end once with vLLM in its own
process (`vllm_mode="colocate"`). Its AsyncGRPOTrainer sends whole weights by NCCL alone, which no CPU has.
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

from tests.bench.copying import work
from tests.bench.sft_speed import contestant
from tests.rl.copying import PROMPTS, copying_job

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))
GOAL = 2.0


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "with_trl": []}
    colocated: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as at:
        copying_job(Path(at), PROMPTS * work.STEPS)
        for seed in range(ROUNDS):
            for name, made in found.items():
                made.append(contestant([sys.executable, "-m", f"tests.bench.copying.{name}", at, str(seed)]))
                print(f"round {seed}, {name}: {json.dumps(made[-1])}", flush=True)
        colocated = contestant([sys.executable, "-m", "tests.bench.copying.with_trl", at, "0", "colocate"])
        print(f"with_trl, colocate: {json.dumps(colocated)}", flush=True)
    steps = {name: statistics.median(one["step_s"] for one in made) for name, made in found.items()}
    reached = {name: [one["to_reward_s"] for one in made if one["to_reward_s"] is not None] for name, made in found.items()}
    whole = all(len(each) == ROUNDS for each in reached.values())
    seconds = {name: round(statistics.median(each), 2) if each else None for name, each in reached.items()}
    ratio = seconds["with_trl"] / seconds["ours"] if whole and seconds["ours"] and seconds["with_trl"] else 0.0
    print(
        json.dumps(
            {
                "name": "grpo_speed",
                "peer": "TRL GRPOTrainer (transformers' generation)",
                "peer_version": version("trl"),
                "ours": seconds["ours"],
                "theirs": seconds["with_trl"],
                "unit": f"seconds to a mean reward of {work.REWARD}",
                "ratio": round(ratio, 3),
                "goal": GOAL,
                "step_s": {name: round(value, 4) for name, value in steps.items()},
                "step_ratio": round(steps["with_trl"] / steps["ours"], 3),
                "steps": {name: [one["steps"] for one in made] for name, made in found.items()},
                "colocate": {name: colocated[name] for name in ("step_s", "to_reward_s", "steps", "first_step_s", "last_reward")},
                "parts_s": found["ours"][-1]["parts"],
                "first_step_s": {
                    name: round(statistics.median(one["first_step_s"] for one in made), 1) for name, made in found.items()
                },
                "quality": {name: [one["last_reward"] for one in made] for name, made in found.items()},
                "ok": whole and ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
