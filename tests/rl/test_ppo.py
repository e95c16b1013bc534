"""PPO learns to copy, and its critic to tell what will come: the trainer alone, and the whole stage with Ray and vLLM."""

from __future__ import annotations

from statistics import mean

import pytest

from raylm.core.metrics import read_metrics
from raylm.core.room import total
from raylm.core.workers import Workers
from raylm.rl.algorithms.ppo import Ppo
from raylm.rl.stage import run
from tests.rl import copying
from tests.rl.copying import copying_job, copying_stage, warmed_model
from tests.rl.test_copying import ADAPTER
from tests.stages import context

CRITIC = {"optimizer": {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}}
OPTIMIZER = {"lr": 2e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}
CARD = Ppo(entropy=0.05)
SURE = Ppo(entropy=0.01)
"""Of a base that explores by itself."""


@pytest.mark.long
def test_ppo_learns_to_copy_and_its_critic_what_to_expect(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "PROMPTS", 128)
    rows: list[dict[str, float]] = []
    rewards = copying.learn_to_copy(tmp_path, CARD, 115, lr=2e-3, minibatches=4, critic=CRITIC, rows=rows)
    assert mean(rewards[:5]) < 0.15 and mean(rewards[-5:]) >= 0.95
    assert explains([{**row, "reward": reward} for row, reward in zip(rows, rewards, strict=True)])


@pytest.mark.long
@pytest.mark.parametrize(
    ("table", "base"),
    [
        ({"adapter": ADAPTER, "lr": 2e-3, "iterations": 60, "card": SURE}, warmed_model),
        ({"adapter": {**ADAPTER, "rank": 32, "modules_to_save": ["embed_tokens"]}, "lr": 3e-3, "iterations": 130}, None),
    ],
    ids=["on a base that knows the words", "with embeddings and head, from random weights"],
)
def test_ppo_with_an_adapter_learns_to_copy(tmp_path, monkeypatch, table, base):
    monkeypatch.setattr(copying, "PROMPTS", 128)
    card = table.pop("card", CARD)
    rewards = copying.learn_to_copy(tmp_path, card, minibatches=4, critic=CRITIC, base=base and base(), **table)
    assert mean(rewards[:5]) < 0.5 and mean(rewards[-5:]) >= 0.95


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("table", "base"),
    [
        ({}, None),
        ({"workers": {"count": 2}, "generator": {"count": 2}}, None),
        ({"adapter": ADAPTER, "iterations": 70, "algorithm": SURE.model_dump()}, warmed_model),
    ],
    ids=["alone", "2 ranks x 2 generators", "adapter"],
)
def test_the_whole_stage_learns_to_copy(tmp_path, table, base):
    copying_job(tmp_path, 128 * 180, model=base and base())
    usual = {
        "algorithm": CARD.model_dump(),
        "critic": CRITIC,
        "minibatches": 4,
        "iterations": 160,
        "prompts_per_iteration": 128,
        "check_export": {"samples": 0},
    }
    cfg = copying_stage(**usual | {"optimizer": OPTIMIZER} | table)
    workers = Workers(wanted_cpus=total(cfg.roles()))
    try:
        made = run(cfg, context(tmp_path, "policy", cfg, workers))
    finally:
        workers.release()
    rows = read_metrics(made.folder)
    print([round(row["reward"], 2) for row in rows][::5], [round(row.get("explained_variance", 9), 2) for row in rows][::5])
    assert mean(row["reward"] for row in rows[-5:]) >= 0.95
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5
    assert base or explains(rows)


def explains(rows):
    """Whether the critic accounts for most of the returns' variance where they vary: before everything is right."""
    learning = [row["explained_variance"] for row in rows if 0.6 < row["reward"] < 0.9]
    return mean(learning[len(learning) // 2 :]) > 0.5
