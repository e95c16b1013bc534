"""PPO: GAE, whitening, policy and value loss by hand and against verl's."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import StageError
from raylm.rl.algorithms.kl import Kl
from raylm.rl.algorithms.ppo import Ppo
from raylm.rl.types import CriticInputs
from tests.rl.algorithms.given import MASK, VALUES, advantages, fixed, flat, given, learned, padded, samples_of


def test_gae_by_hand():
    """Two tokens: d2 = 1 - 0.5, d1 = 0 + 0.9 * 0.5 - 0.2; A1 = d1 + 0.9 * 0.5 * d2; returns are advantages and values."""
    sample = given().samples[2]._replace(reward=1.0, values=[0.2, 0.5])
    card = Ppo(gamma=0.9, gae_lambda=0.5, whiten_advantages=False)
    (found,) = samples_of(card, [sample])
    assert found.advantages.tolist() == pytest.approx([0.25 + 0.45 * 0.5, 0.5])
    assert found.returns.tolist() == pytest.approx([0.25 + 0.45 * 0.5 + 0.2, 1.0])


def test_what_an_environment_says_is_stepped_over():
    """The same two drawn tokens with a token between them, at which the critic said something too."""
    sample = given().samples[0]._replace(reward=1.0, values=[0.2, 7.0, 0.5], mask=[1, 0, 1])
    card = Ppo(gamma=0.9, gae_lambda=0.5, whiten_advantages=False)
    (found,) = samples_of(card, [sample])
    assert found.advantages.tolist() == pytest.approx([0.25 + 0.45 * 0.5, 0.0, 0.5])
    assert found.returns.tolist() == pytest.approx([0.25 + 0.45 * 0.5 + 0.2, 0.0, 1.0])


def test_advantages_and_returns_are_verls():
    """verl 0.9.1, compute_gae_advantage_return with gamma 0.99, lambda 0.9, of rewards less 0.1 times kl_penalty "k1"."""
    card = Ppo(gamma=0.99, gae_lambda=0.9, kl=Kl(coefficient=0.1, in_reward=True))
    found = samples_of(card)
    expected = [
        [0.74958, 0.19981, 1.65093],
        [-1.12433, 0.0181, -0.61353, -1.2548, -0.0969],
        [0.28403, -0.34746],
        [0.57865, 0.01845, 1.45786, 1.04523],
        [-2.4477],
        [0.55055, -0.03786, -0.63061],
    ]
    assert flat(one.advantages for one in found) == pytest.approx(flat(expected), abs=2e-5)
    expected = [
        [0.85004, 0.83618, 1.001],
        [0.11617, 0.09914, 0.03706, -0.03069, -0.0386],
        [0.3158, 0.2538],
        [0.85935, 0.83935, 0.99727, 1.0642],
        [-0.5534],
        [0.58279, 0.54618, 0.507],
    ]
    assert flat(one.returns for one in found) == pytest.approx(flat(expected), abs=2e-5)


def test_whitened_rewards_keep_their_mean():
    """One token each, rewards 1 and 3, values 0: variance 2, mean 2."""
    samples = [given().samples[4]._replace(row=row, reward=reward, values=[0.0]) for row, reward in ((0, 1.0), (1, 3.0))]
    card = Ppo(whiten_rewards=True, whiten_advantages=False)
    found = advantages(card, samples)
    assert [row[0] for row in found] == pytest.approx([2 - 0.5**0.5, 2 + 0.5**0.5])


def test_the_value_loss_is_verls():
    """verl 0.9.1, compute_value_loss with cliprange_value 0.2: loss and share of clipped tokens."""
    old = padded(VALUES)
    new = (old + 0.3 * padded(fixed(0.2, 0.47)) + 0.3).requires_grad_()
    card = Ppo(gamma=0.99, gae_lambda=0.9, kl=Kl(coefficient=0.1, in_reward=True))
    returns = padded([one.returns for one in samples_of(card)])
    found = card.critic_loss(CriticInputs(new, old, returns, MASK))
    assert found.total.item() / 18 == pytest.approx(0.1367341, rel=1e-4)
    assert found.metrics["clip_ratio"].item() / 18 == pytest.approx(4 / 18)


def test_a_value_that_moved_too_far_by_hand():
    """From 0 to 0.5 with a return of 1 it loses as 0.2 does, and is not pulled; with a return of 0 it is pulled back."""
    new = torch.tensor([[0.5, 0.5]], requires_grad=True)
    found = Ppo().critic_loss(CriticInputs(new, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2)))
    assert found.total.item() == pytest.approx(0.5 * 0.64 + 0.5 * 0.25)
    found.total.backward()
    assert new.grad is not None and new.grad[0].tolist() == pytest.approx([0.0, 0.5])


def test_it_compares_with_the_trainer_and_needs_a_critic():
    assert Ppo().needs == ("trainer_logprobs", "critic") and Ppo(old_logprobs="generator").needs == ("critic",)
    same = [one.trainer_logprobs for one in given().samples]
    # at the trainer's own log-probabilities every ratio is 1: the loss is the mean of whitened advantages, which is 0
    assert learned(Ppo(), same)[0] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(StageError, match="without values"):
        Ppo().advantages(given(values=None))
