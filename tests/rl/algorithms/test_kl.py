"""KL to the reference: estimators and gradients by hand, in the loss and in the reward against TRL, an adaptive coefficient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.kl import Kl
from raylm.rl.algorithms.ppo import Ppo
from tests.rl.algorithms.given import POLICY, REFERENCE, given, learned, padded, samples_of, trls


def test_estimators_by_hand():
    gap = np.array([0.0, math.log(2.0), -math.log(4.0)])
    assert Kl(estimator="k1", in_reward=True).estimate(gap, np.exp) == pytest.approx(gap)
    assert Kl(estimator="k2").estimate(gap, np.exp) == pytest.approx(gap**2 / 2)
    assert Kl(estimator="k3").estimate(gap, np.exp) == pytest.approx([0.0, 0.5 - 1 + math.log(2), 4 - 1 - math.log(4)])


def test_means_are_verls():
    """verl 0.9.1, core_algos.kl_penalty of the same log-probabilities, mean over all tokens: "k1", "k2", "k3"."""
    gap = padded(POLICY) - padded(REFERENCE)
    for card, mean in ((Kl(estimator="k1", in_reward=True), 0.02), (Kl(estimator="k2"), 0.13278688), (Kl(), 0.12783295)):
        found = card.estimate(gap, torch.exp)
        assert float(found.sum() / 18) == pytest.approx(mean, rel=1e-5)


def test_the_default_is_k3_in_the_loss_and_k1_in_the_reward():
    gap = np.array([0.3])
    assert Kl().estimate(gap, np.exp) == Kl(estimator="k3").estimate(gap, np.exp)
    assert Kl(in_reward=True).estimate(gap, np.exp) == gap


def test_in_the_loss_it_is_trls():
    """grpo_trainer.py of TRL 1.16 with beta = 0.3, loss and gradient."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    card = Grpo(kl=Kl(coefficient=0.3))
    values = [sample.advantages[0] for sample in samples_of(card)]
    loss, gradient = learned(card)
    expected, expected_gradient = trls(GRPOTrainer, values, {"loss_type": "dapo"}, beta=0.3)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_what_k2_pulls_at_by_hand():
    """The gradient of d^2 / 2 is d, of each of 18 tokens."""
    quiet, gradient = learned(Grpo())
    loss, other = learned(Grpo(kl=Kl(coefficient=0.5, estimator="k2")))
    gap = padded(POLICY) - padded(REFERENCE)
    torch.testing.assert_close(other - gradient, 0.5 * gap / 18, rtol=1e-4, atol=1e-7)
    assert loss - quiet == pytest.approx(0.5 * float((gap**2).sum()) / 2 / 18, rel=1e-4)


def test_groups_that_score_alike_stay_for_the_sake_of_the_kl_beside_others_that_teach():
    experience = given()
    samples = [one._replace(reward=1.0) if one.row == 1 else one for one in experience.samples]
    found = Grpo(kl=Kl()).advantages(experience._replace(samples=samples)).samples
    assert [one.row for one in found] == [0, 0, 1, 1, 2, 2] and found[2].advantages == [0.0] * 2
    for card, kept in ((Grpo(), {0, 2}), (Grpo(kl=Kl(in_reward=True)), {0, 1, 2})):
        assert {one.row for one in card.advantages(experience._replace(samples=samples)).samples} == kept
    assert not Grpo(kl=Kl()).advantages(given(reward=1.0)).samples


def test_in_the_reward_it_is_taken_from_each_token():
    """Two tokens, critic of 0, gamma = lambda = 1: each token's advantage is what is still to come."""
    sample = (
        given().samples[2]._replace(reward=1.0, trainer_logprobs=[-1.0, -2.0], reference_logprobs=[-1.5, -1.0], values=[0.0, 0.0])
    )
    card = Ppo(kl=Kl(coefficient=0.1, in_reward=True), gae_lambda=1.0, whiten_advantages=False)
    found = card.advantages(given()._replace(samples=[sample]))
    assert list(found.samples[0].advantages) == pytest.approx([1.0 - 0.05 + 0.1, 1.0 + 0.1])
    assert found.metrics is not None
    assert found.metrics["kl"] == pytest.approx(-0.25) and found.metrics["kl_coefficient"] == 0.1
    assert "reference" in card.needs and found.state is None


def test_an_adaptive_coefficient_follows_its_target_as_verls_does():
    """verl 0.9.1, AdaptiveKLController(0.1, 0.02, 1000) after KLs of 0.0215 and 1.0 of six completions each."""
    kl = Kl(coefficient=0.1, target=0.02, horizon=1000.0, in_reward=True)
    state = kl.follow({}, 0.0215, 6)
    assert kl.coefficient_of(state) == pytest.approx(0.100045)
    assert kl.coefficient_of(kl.follow(state, 1.0, 6)) == pytest.approx(0.100165054)


def test_the_coefficient_of_the_next_iteration_travels_in_the_state():
    card = Ppo(kl=Kl(coefficient=0.1, target=0.02, horizon=60.0, in_reward=True))
    first = card.advantages(given())
    assert first.state is not None and first.metrics is not None and first.metrics["kl_coefficient"] == 0.1
    again = card.advantages(given()._replace(state=first.state))
    assert again.metrics is not None and again.metrics["kl_coefficient"] == first.state["kl_coefficient"] != 0.1


def test_what_cannot_work_is_refused():
    with pytest.raises(ValidationError, match="in_reward = true"):
        Kl(target=0.1)
    with pytest.raises(ValidationError, match="averages to 0"):
        Kl(estimator="k1")
    assert "reference" not in Grpo(kl=Kl(coefficient=0.0)).needs and "reference" in Grpo(kl=Kl()).needs
