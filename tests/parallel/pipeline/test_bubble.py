"""The bubble: the published formula against the schedule that is run."""

from __future__ import annotations

import pytest

from raylm.parallel.pipeline.bubble import bubble
from raylm.parallel.pipeline.schedule import pipeline_schedule


def test_by_hand():
    # Megatron, section 2.2: idle to busy is (p - 1) / m, here 3 / 12, so 3 of 15 parts are idle
    assert bubble("1f1b", 4, 12) == pytest.approx(3 / 15)
    # two stages per rank halve it: 3 / 24
    assert bubble("interleaved", 4, 12, virtual=2) == pytest.approx(3 / 27)
    assert bubble("zero_bubble", 4, 12) == pytest.approx(3 / 75)
    assert bubble("1f1b", 1, 3) == 0


@pytest.mark.parametrize(("schedule", "virtual"), [("1f1b", 1), ("interleaved", 2), ("interleaved", 3)])
@pytest.mark.parametrize("ranks", [2, 3, 4, 7])
@pytest.mark.parametrize("micros", [1, 2, 5, 8, 13, 28])
def test_the_formula_is_what_the_schedule_takes(schedule, virtual, ranks, micros):
    busy = 3 * micros * virtual
    assert bubble(schedule, ranks, micros, virtual) == pytest.approx(
        1 - busy / pipeline_schedule(schedule, ranks, micros, virtual).span
    )


@pytest.mark.parametrize(("ranks", "micros"), [(2, 2), (3, 6), (4, 4), (4, 8), (4, 16), (8, 8), (8, 32)])
def test_zero_bubble_is_near_its_formula_and_below_the_others(ranks, micros):
    idle = 1 - 6 * micros / pipeline_schedule("zero_bubble", ranks, micros).span
    assert bubble("zero_bubble", ranks, micros) - 1e-9 <= idle < bubble("zero_bubble", ranks, micros) + 0.035
    assert idle < bubble("interleaved", ranks, micros)
