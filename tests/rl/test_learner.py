"""Takes hand-made samples, proves the learner's updates without Ray: numbers by hand, micro batches, rounds without samples."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.strategies.fsdp import Fsdp
from tests.model.tiny import tiny_model
from tests.rl.samples import learn, samples


def test_the_first_update_by_hand(tmp_path):
    """The samples are the model's own: every ratio is 1, nothing is clipped, the loss is the mean advantage per token."""
    found = learn(Fsdp(), tmp_path, 0, 1)["stats"]
    made = samples(tiny_model(vocab=64, hidden=32, layers=1))
    tokens = sum(len(sample.logprobs) for sample in made)
    assert found[0]["loss"] == pytest.approx(-sum(s.advantage * len(s.logprobs) for s in made) / tokens, abs=1e-5)
    assert found[0]["nll"] == pytest.approx(-sum(sum(s.logprobs) for s in made) / tokens, abs=1e-5)
    assert abs(found[0]["kl_to_sampler"]) < 1e-6
    assert found[0]["clipped_share"] == 0.0
    assert found[2]["kl_to_sampler"] > 1e-6
    assert found[2]["loss"] < found[0]["loss"]


def test_the_size_of_micro_batches_changes_nothing(tmp_path):
    small, large = learn(Fsdp(), tmp_path / "a", 0, 1, micro_batch=1), learn(Fsdp(), tmp_path / "b", 0, 1, micro_batch=5)
    for left, right in zip(small["stats"], large["stats"], strict=True):
        assert right == pytest.approx(left, rel=1e-4, abs=1e-6)


def test_a_group_without_this_runs_learner_says_so(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1)
    assert found["fresh"] is None
    assert found["other"] is None


def test_a_round_without_samples_counts_and_changes_no_weight(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1)
    assert found["skipped"]["loss"] == 0.0
    assert found["done"] == 4


def test_a_gradient_that_is_not_finite_is_said(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1, advantage=float("nan"))
    assert [stats["finite"] for stats in found["stats"]] == [False] * 3
    plain = tiny_model(vocab=64, hidden=32, layers=1).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found["weights"].items())
