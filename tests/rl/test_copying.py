"""Gates of learning: from random weights to a mean reward of 0.95, and a reward so sparse that nothing can be learned of it."""

from __future__ import annotations

import pytest

from raylm.core.errors import TrainingError
from raylm.core.metrics import read_metrics
from raylm.core.room import total
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.rloo import Rloo
from raylm.rl.stage import run
from tests.rl.copying import copying_job, copying_stage, learn_to_copy, sparse
from tests.stages import context

RLOO = Rloo(num_generations=16, normalize_advantages=True)
"""Without a group's deviation the few groups that are not right yet weigh little: it needs more completions, and two steps."""


def test_grpo_learns_to_copy(tmp_path):
    rewards = learn_to_copy(tmp_path, Grpo(), 140)
    assert sum(rewards[:5]) / 5 < 0.15 and sum(rewards[-5:]) / 5 >= 0.95


@pytest.mark.long
def test_rloo_learns_to_copy(tmp_path):
    rewards = learn_to_copy(tmp_path, RLOO, 140, minibatches=2)
    assert sum(rewards[:5]) / 5 < 0.15 and sum(rewards[-5:]) / 5 >= 0.95


def test_a_sparse_reward_teaches_nothing_without_warm_up(tmp_path):
    """Chance hits one answer in 38 thousand, and 3,200 are drawn: a reward that rises here came from somewhere else."""
    rewards = learn_to_copy(tmp_path, Grpo(), 25, reward=sparse)
    assert sum(rewards) / 25 < 0.01 and rewards[-1] < 0.05


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize(
    "table", [{}, {"algorithm": RLOO.model_dump(), "minibatches": 2, "micro_batch": 256}], ids=["grpo", "rloo"]
)
def test_the_whole_stage_learns_to_copy(tmp_path, table):
    """With Ray, vLLM and the weights of each update in it."""
    copying_job(tmp_path, 16 * 180)
    cfg = copying_stage(iterations=175, check_export={"samples": 0}, **table)
    workers = Workers(wanted_cpus=total(cfg.roles()))
    try:
        made = run(cfg, context(tmp_path, "policy", cfg, workers))
    finally:
        workers.release()
    rows = read_metrics(made.folder)
    assert sum(row["reward"] for row in rows[-5:]) / 5 >= 0.95
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.vllm
def test_the_whole_stage_learns_nothing_of_a_sparse_reward(tmp_path):
    copying_job(tmp_path, 16 * 20)
    reward = {"kind": "custom", "path": "tests.rl.copying:Copies", "options": {"sparse": True}}
    cfg = copying_stage(iterations=15, rewards=[reward], check_export={"samples": 0})
    workers = Workers(wanted_cpus=total(cfg.roles()))
    try:
        with pytest.raises(TrainingError, match="the weights are those of the start"):
            run(cfg, context(tmp_path, "policy", cfg, workers))
    finally:
        workers.release()
    assert max(row["reward"] for row in read_metrics(Folder(tmp_path / "policy"))) < 0.05
