"""Gates of learning: from random weights to a mean reward of 0.95, and a reward so sparse that nothing can be learned of it."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import TrainingError
from raylm.core.metrics import read_metrics
from raylm.core.room import total
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.rloo import Rloo
from raylm.rl.stage import run
from tests.rl.copying import LENGTH, WORDS, copying_job, copying_model, copying_stage, learn_to_copy, sparse, warmed_model
from tests.stages import context

ADAPTER = {"kind": "lora", "rank": 16, "alpha": 32}
RLOO = Rloo(num_generations=16, normalize_advantages=True)
"""Without a group's deviation the few groups that are not right yet weigh little: it needs more completions, and two steps."""


def test_grpo_learns_to_copy(tmp_path):
    rewards = learn_to_copy(tmp_path, Grpo(), 140)
    assert sum(rewards[:5]) / 5 < 0.15 and sum(rewards[-5:]) / 5 >= 0.95


@pytest.mark.long
def test_rloo_learns_to_copy(tmp_path):
    rewards = learn_to_copy(tmp_path, RLOO, 190, minibatches=2)
    assert sum(rewards[:5]) / 5 < 0.15 and sum(rewards[-5:]) / 5 >= 0.95


def test_an_adapter_learns_to_copy_on_a_base_that_knows_the_words(tmp_path):
    rewards = learn_to_copy(tmp_path, Grpo(), 45, lr=5e-3, adapter=ADAPTER, base=warmed_model())
    assert sum(rewards[:5]) / 5 < 0.45 and sum(rewards[-5:]) / 5 >= 0.9


def test_a_random_head_that_an_adapter_leaves_as_it_is_makes_no_word_likely(tmp_path):
    """What comes before the head has a norm of 8 (the square root of its width), a row of the head one of 0.16: whatever the
    adapter does, no word is likelier than exp(8 * 0.16) to 1 for each of the others. It is no fault of the gradient, which is
    that of a plain peft loop; `modules_to_save` trains embeddings and head, too."""
    head = copying_model().get_input_embeddings().weight
    likeliest = max(best_probability(head, word) for word in range(3, len(WORDS)))
    rewards = learn_to_copy(tmp_path, Grpo(), 30, lr=5e-3, adapter=ADAPTER)
    assert likeliest < 0.3 and max(rewards) < likeliest


def best_probability(head_VH, word):
    """The largest probability that a normalised state can give a word: found by climbing from the word's own row."""
    state = head_VH[word].detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([state], lr=0.05)
    for _ in range(200):
        logprob = (head_VH.detach() @ (state / state.pow(2).mean().sqrt())).log_softmax(-1)[word]
        optimizer.zero_grad()
        (-logprob).backward()
        optimizer.step()
    return float(logprob.exp())


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
        workers.stop()
    rows = read_metrics(made.folder)
    assert sum(row["reward"] for row in rows[-5:]) / 5 >= 0.95
    # an iteration whose groups are all right computes nothing
    assert max(abs(row["mismatch_kl"]) for row in rows if row["learned_share"]) < 1e-5


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.vllm
def test_the_whole_stage_learns_nothing_of_a_sparse_reward(tmp_path):
    """Answers twice as long: of the short ones chance hits one in 38 thousand, and 1,920 are drawn."""
    copying_job(tmp_path, 16 * 20)
    reward = {"kind": "custom", "path": "tests.rl.copying:Copies", "options": {"sparse": True, "length": 2 * LENGTH}}
    cfg = copying_stage(iterations=15, rewards=[reward], max_tokens=2 * LENGTH, check_export={"samples": 0})
    workers = Workers(wanted_cpus=total(cfg.roles()))
    try:
        with pytest.raises(TrainingError, match="the weights are those of the start"):
            run(cfg, context(tmp_path, "policy", cfg, workers))
    finally:
        workers.stop()
    assert max(row["reward"] for row in read_metrics(Folder(tmp_path / "policy"))) < 0.05
