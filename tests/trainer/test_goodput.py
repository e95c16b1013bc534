"""Goodput: lost steps and lost seconds by hand."""

from __future__ import annotations

import pytest

from raylm.trainer.goodput import Goodput


def test_steps_done_again_and_waits_are_lost():
    now = [0.0]
    run = Goodput([], clock=lambda: now[0])

    def at(seconds: float, what, step: int) -> None:
        now[0] = seconds
        what(step)

    at(10.0, run.rewind, 0)  # the group started
    at(12.0, run.row, 0)
    at(14.0, run.row, 1)
    at(17.0, run.row, 2)
    at(25.0, run.rewind, 1)  # died; the new group goes on from step 1: steps 1, 2 (5 s) and 8 s of waiting are lost
    at(28.0, run.row, 1)
    at(30.0, run.row, 2)
    now[0] = 35.0
    assert run.metrics() == {"lost_steps": 2, "lost_s": 13.0, "restarts": 1, "goodput": pytest.approx(7 / 35)}


def test_a_rollback_loses_steps_and_is_no_restart():
    run = Goodput([])
    run.rewind(0)
    for step in range(3):
        run.row(step)
    run.rewind(1, rollback=True)
    assert run.metrics()["lost_steps"] == 2 and run.metrics()["restarts"] == 0


def test_steps_that_an_earlier_driver_had_done():
    run = Goodput([0, 1, 2, 3, 4])
    run.rewind(3)
    assert run.metrics()["lost_steps"] == 2 and run.metrics()["restarts"] == 0
