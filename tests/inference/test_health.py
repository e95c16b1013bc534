"""Which generators may be given work: the table of states, walked without processes."""

from __future__ import annotations

import itertools

import pytest

from raylm.inference.health import NEXT, Health, State


def walked(*events):
    one = Health()
    for event in events:
        one.on(event)
    return one.state


def test_the_way_of_one_that_is_lost_and_comes_back():
    assert walked() is State.STARTING
    assert walked("started") is State.STALE
    assert walked("started", "proved") is State.HEALTHY
    assert walked("started", "proved", "late") is State.SUSPECT
    assert walked("started", "proved", "late", "heard") is State.HEALTHY
    assert walked("started", "proved", "late", "lost") is State.DEAD
    assert walked("started", "proved", "lost", "renewed", "started") is State.STALE


def test_a_late_one_that_missed_a_transfer_is_stale():
    assert walked("started", "proved", "late", "outdated") is State.STALE
    with pytest.raises(ValueError, match="a generator that is stale cannot be heard"):
        walked("started", "proved", "late", "outdated", "heard")


def test_nothing_but_a_proof_makes_one_healthy_again():
    """Over all walks of up to five events: one that was lost, outdated or started works only after a proof."""
    for events in itertools.product(NEXT, repeat=5):
        one, proved = Health(), False
        for event in events:
            if one.state not in NEXT[event]:
                break
            one.on(event)
            proved = event == "proved" or (proved and event in ("late", "heard"))
            assert (one.state in (State.HEALTHY, State.SUSPECT)) == proved, events


def test_a_proof_is_of_the_version_that_is_wanted():
    one = Health()
    one.on("started")
    one.version = 3
    with pytest.raises(ValueError, match="took version 3 cannot be proved to hold version 4"):
        one.proved(4)
    assert one.state is State.STALE
    one.proved(3)
    one.lost("the node died")
    assert (one.state, one.version, one.losses, one.why, one.lives) == (State.DEAD, None, 1, "the node died", False)
