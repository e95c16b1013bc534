"""The work that both contestants do: the task of `tests/rl/copying.py`, and what they report of it."""

from __future__ import annotations

import json
import os
import statistics
from itertools import pairwise

STEPS = int(os.environ.get("RAYLM_STEPS", "175"))
LR, BETAS, CLIP = 3e-3, (0.9, 0.95), 1.0
REWARD, WINDOW = 0.95, 10
SKIPPED = 5
"""First steps that are not timed: kernels, caches and connections are made in them."""


def report(started: float, seen: list[tuple[float, float]], **more: object) -> None:
    """Print seconds from the first step's end to a mean reward of REWARD over WINDOW steps, and the median of a step's.

    Args:
        seen: time and mean reward of each step.
    """
    rewards = [reward for _, reward in seen]
    steps = [later[0] - earlier[0] for earlier, later in pairwise(seen)][SKIPPED:]
    reached = next((at for at in range(WINDOW, len(rewards) + 1) if sum(rewards[at - WINDOW : at]) >= WINDOW * REWARD), None)
    found = {
        "tokens_per_s": 0.0,
        "step_s": statistics.median(steps),
        "to_reward_s": None if reached is None else seen[reached - 1][0] - seen[0][0],
        "steps": reached,
        "last_reward": round(sum(rewards[-WINDOW:]) / WINDOW, 3),
        "first_step_s": seen[0][0] - started,
        **more,
    }
    print("\n" + json.dumps(found), flush=True)
