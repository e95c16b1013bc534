"""Soft punishment of long completions: by hand, and in the rewards that are compared."""

from __future__ import annotations

import pytest

from raylm.rl.algorithms.overlong import Overlong
from raylm.rl.algorithms.rloo import Rloo
from tests.rl.algorithms.given import given


def test_the_paper_by_hand():
    """DAPO, eq. 13: 0 up to L_max - L_cache, then (L_max - L_cache - |y|) / L_cache, then -1."""
    found = Overlong(expected_tokens=16, buffer_tokens=4)
    assert [found.shaping(length) for length in (1, 16, 17, 18, 20, 30)] == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert Overlong(expected_tokens=16, buffer_tokens=4, penalty=0.5).shaping(18) == -0.25


def test_it_is_compared_within_the_group():
    """The second completion of the first prompt has 5 tokens: (5 - 3) / 4 of 2 are taken."""
    card = Rloo(overlong=Overlong(expected_tokens=3, buffer_tokens=4, penalty=2.0))
    experience = card.advantages(given())
    found = [sample.advantages[0] for sample in experience.samples]
    assert found == pytest.approx([2.0, -2.0, -0.25, 0.25, -1.0, 1.0])
    assert experience.metrics is not None and experience.metrics["overlong_share"] == pytest.approx(2 / 6)
    # what an environment said is no word of the policy's
    masked = given()._replace(samples=[one._replace(mask=[1] + [0] * (len(one.logprobs) - 1)) for one in given().samples])
    metrics = card.advantages(masked).metrics
    assert metrics is not None and metrics["overlong_share"] == 0.0
