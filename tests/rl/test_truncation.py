"""Answers that were cut off: what is learned from the others."""

from __future__ import annotations

import pytest

from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.truncation import Truncated
from raylm.rl.types import Experience, Sample


def sample(row: int, length: int, reward: float, finished: bool = True, place: int = 0) -> Sample:
    return Sample(row, [1, *[5] * length], 1, [-0.5] * length, reward, finished=finished, place=place)


def test_each_group_weighs_the_same_without_those_that_were_cut_off():
    card = Grpo(num_generations=2, aggregation="group")
    given = [sample(0, 4, 1.0), sample(0, 2, 0.0, place=1), sample(1, 3, 1.0), sample(1, 9, 0.0, False, place=1)]
    made = card.advantages(Experience(given, [0, 1], 0))
    left = Truncated().left_in(made, card.weighed).samples
    assert [(one.row, len(one.logprobs)) for one in left] == [(0, 4), (0, 2), (1, 3)]
    assert [one.weight for one in left] == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    # what was cut off still says what the other one of its group is worth
    assert left[2].advantages[0] > 0 and card.divisor(left) == pytest.approx(2.0)
    assert Truncated(action="penalize").left_in(made, card.weighed) is made
