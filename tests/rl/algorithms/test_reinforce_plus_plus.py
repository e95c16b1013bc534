"""REINFORCE++: returns and whitening by hand and against verl's."""

from __future__ import annotations

import math

import pytest

from raylm.rl.algorithms.kl import Kl
from raylm.rl.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from tests.rl.algorithms.given import advantages, flat, given


def test_whitened_returns_by_hand():
    """Completions of 1 and 3 tokens with rewards 1 and 0: returns 1, 0, 0, 0; variance of a sample 0.25."""
    samples = [one._replace(reward=reward) for one, reward in zip(given().samples[4:], (1.0, 0.0), strict=True)]
    found = advantages(ReinforcePlusPlus(), samples)
    scale = math.sqrt(0.25 + 1e-8)
    assert found[0] == pytest.approx([0.75 / scale]) and found[1] == pytest.approx([-0.25 / scale] * 3)


def test_advantages_with_kl_in_the_reward_are_verls():
    """verl 0.9.1, compute_reinforce_plus_plus_outcome_advantage with gamma 0.9 of rewards less 0.1 times kl_penalty "k1"."""
    card = ReinforcePlusPlus(gamma=0.9, kl=Kl(coefficient=0.1, in_reward=True), old_logprobs="trainer")
    expected = [
        [0.79989, 0.925, 1.28692],
        [-0.91514, -0.94487, -0.99625, -0.97518, -0.9701],
        [-0.3118, -0.33529],
        [0.69975, 0.82436, 1.1857, 1.42413],
        [-2.08775],
        [0.07315, 0.10305, 0.21442],
    ]
    assert flat(advantages(card)) == pytest.approx(flat(expected), abs=2e-5)


def test_rewards_at_tokens_and_those_of_an_environment_belong_to_a_drawn_token():
    """Rewards 1 (first), 4 (at the environment's token) and 2 (the last): with gamma 0.5 the returns are 1 + 4 + 1 and 2."""
    sample = given().samples[0]._replace(reward=2.0, token_rewards=[1.0, 4.0, 0.0], mask=[1, 0, 1])
    other = given().samples[4]._replace(reward=0.0)
    found = advantages(ReinforcePlusPlus(gamma=0.5), [sample, other])
    returns = [6.0, 2.0, 0.0]
    mean = sum(returns) / 3
    scale = math.sqrt(sum((value - mean) ** 2 for value in returns) / 2 + 1e-8)
    assert found[0] == pytest.approx([(6 - mean) / scale, 0.0, (2 - mean) / scale])
    assert found[1] == pytest.approx([-mean / scale])


def test_equal_returns_teach_nothing():
    """Rounding would else be scaled up to a signal."""
    assert advantages(ReinforcePlusPlus(), given(reward=0.1).samples) == [] and ReinforcePlusPlus().needs == ()
