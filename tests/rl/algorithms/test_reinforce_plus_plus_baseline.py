"""REINFORCE++ with a baseline: by hand and against verl's."""

from __future__ import annotations

import math

import pytest

from raylm.rl.algorithms.reinforce_plus_plus_baseline import ReinforcePlusPlusBaseline
from tests.rl.algorithms.given import advantages, alike, given, samples_of


def test_advantages_are_verls():
    """verl 0.9.1, compute_reinforce_plus_plus_baseline_outcome_advantage."""
    expected = [0.96783, -1.1438, -0.87985, 0.70388, -1.1438, 0.96783]
    assert alike(advantages(ReinforcePlusPlusBaseline())) == pytest.approx(expected, abs=2e-5)


def test_tokens_weigh_in_the_scale_by_hand():
    """One group: a token with +0.5, three tokens with -0.5; mean -0.25, squares 0.75 over three."""
    samples = [one._replace(reward=reward) for one, reward in zip(given().samples[4:], (1.0, 0.0), strict=True)]
    found = alike(advantages(ReinforcePlusPlusBaseline(), samples))
    scale = math.sqrt((0.75**2 + 3 * 0.25**2) / 3 + 1e-8)
    assert found == pytest.approx([0.75 / scale, -0.25 / scale])


def test_groups_that_score_alike_count_in_the_scale_and_are_left_out():
    samples = [one._replace(reward=0.1) if one.row == 1 else one for one in given().samples]
    found = samples_of(ReinforcePlusPlusBaseline(), samples)
    assert [one.row for one in found] == [0, 0, 2, 2]
