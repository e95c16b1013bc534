"""PPO learns to copy, and its critic to tell what will come."""

from __future__ import annotations

from statistics import mean

import pytest

from raylm.rl.algorithms.ppo import Ppo
from tests.rl import copying

CRITIC = {"optimizer": {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}}
CARD = Ppo(entropy=0.05)


@pytest.mark.long
def test_ppo_learns_to_copy_and_its_critic_what_to_expect(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "PROMPTS", 128)
    rows: list[dict[str, float]] = []
    rewards = copying.learn_to_copy(tmp_path, CARD, 115, lr=2e-3, minibatches=4, critic=CRITIC, rows=rows)
    assert mean(rewards[:5]) < 0.15 and mean(rewards[-5:]) >= 0.95
    assert explains([{**row, "reward": reward} for row, reward in zip(rows, rewards, strict=True)])


def explains(rows):
    """Whether the critic accounts for most of the returns' variance where they vary: before everything is right."""
    learning = [row["explained_variance"] for row in rows if 0.6 < row["reward"] < 0.9]
    return mean(learning[len(learning) // 2 :]) > 0.5
