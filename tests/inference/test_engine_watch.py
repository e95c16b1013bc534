"""The load of an engine from what its steps say, and what counts as a hang: clocks are numbers here."""

from __future__ import annotations

import pytest

from raylm.inference.engine_watch import LATELY_S, LONG, Busy, HangWatch, Meter
from raylm.inference.vllm_serving_private import Step


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step(**changes):
    return Step(**{"running": 2, "waiting": 1, "kv_use": 0.5, "new_tokens": 2, "first_tokens_s": (), "preempted": 0, **changes})


def test_what_was_never_told_is_unknown_and_not_zero():
    clock = Clock()
    assert Meter(lambda: 3, lambda: 70, clock).busy() == Busy(None, None, 70, None, None, None, 0, 0)
    # the front end itself knows that nothing is under way
    assert Meter(lambda: 0, lambda: 0, clock).busy() == Busy(0, 0, 0, None, None, None, 0, 0)


def test_rates_are_of_the_last_seconds_and_an_engine_without_requests_is_idle():
    clock, under_way = Clock(), [3]
    meter = Meter(lambda: under_way[0], lambda: 40, clock)
    clock.now = LATELY_S
    meter.heard(step(new_tokens=30, first_tokens_s=(0.1, 0.3, 0.2), read_tokens=5))
    meter.heard(step(running=3, waiting=0, kv_use=0.75, new_tokens=20, preempted=2, read_tokens=7))
    assert meter.busy() == Busy(3, 0, 40, 0.75, 0.2, 50 / LATELY_S, 12, 3)
    assert (meter.steps, meter.preempted) == (2, 2)
    # the engine's last step still had a request in it
    under_way[0], clock.now = 0, 2 * LATELY_S + 1
    assert meter.busy() == Busy(0, 0, 0, 0.0, None, 0.0, 12, 3)


def test_an_engine_that_answers_does_not_hang():
    watch = HangWatch(2.0, 0.0)
    assert not any(watch.look(0.5 * at, True, at, 0.0) for at in range(1, 20))
    # nor one that is asked nothing
    assert not any(watch.look(10 + at, False, 19, 0.0) for at in range(20))


def test_one_that_is_asked_and_computes_nothing_hangs_and_one_that_reads_a_long_prompt_does_not():
    stopped, reading = HangWatch(2.0, 0.0), HangWatch(2.0, 0.0)
    assert stopped.look(1.0, True, 1, 5.0) == reading.look(1.0, True, 1, 5.0) == ""
    assert stopped.look(2.9, True, 1, 5.0) == ""
    assert "computes nothing" in stopped.look(3.1, True, 1, 5.05)
    assert reading.look(3.1, True, 1, 7.0) == ""
    assert reading.look(1.0 + 2.0 * LONG, True, 1, 24.0) == ""
    # for ever is too long for any prompt
    assert "not answered for" in reading.look(1.5 + 2.0 * LONG, True, 1, 24.0)


@pytest.mark.parametrize("late_s", [2.5, 60.0])
def test_a_new_sign_begins_to_count_anew(late_s):
    watch = HangWatch(2.0, 0.0)
    watch.look(0.0, True, 1, 0.0)
    assert watch.look(late_s, True, 1, 0.0)
    assert watch.look(late_s, True, 2, 0.0) == ""
    assert watch.look(late_s + 1.9, True, 2, 0.0) == ""
