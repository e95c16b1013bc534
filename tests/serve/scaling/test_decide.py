"""Bounds, delays, starts under way and what is not known, by hand."""

from __future__ import annotations

from typing import NamedTuple

from raylm.serve.directory import Load
from raylm.serve.scaling.decide import Bounds, Decision, State, decide
from raylm.serve.scaling.observed import Flow, Observed
from raylm.serve.scaling.scaling import Need, Room, ScalingCard

BUSY = Load(1, 0, 0, 0.1, 0.1, 10.0, 0)
BOUNDS = Bounds(min=1, max=4, upscale_delay_s=10, downscale_delay_s=100)


class Fixed(ScalingCard):
    """Needs what it is told to."""

    replicas: float = 1.0

    def needs(self, observed: Observed, flow: Flow, room: Room) -> Need:
        return Need(self.replicas, "so it is", "fixed")


class Step(NamedTuple):
    now: float
    needs: float
    target: int
    loads: list[Load | None]
    at_door: float = 0.0


def run(bounds: Bounds, *steps: Step, state: State = State()) -> list[Decision]:
    found = []
    for step in steps:
        loads = {str(number): load for number, load in enumerate(step.loads)}
        observed = Observed(step.now, step.target, loads, at_door=step.at_door)
        found.append(decide(observed, state, Fixed(replicas=step.needs), bounds))
        state = found[-1].state
    return found


def test_more_are_asked_for_when_the_delay_is_over():
    found = run(BOUNDS, *(Step(t, 2.2, 1, [BUSY]) for t in (0, 5, 9.9, 10)))
    assert [each.replicas for each in found] == [1, 1, 1, 3]
    assert found[1].reason == "so it is: 2.20 of 1 to 4 are needed; since 5.0 of 10 s" and found[1].kind == "fixed_waits"
    # a moment in which less is needed begins the delay anew
    found = run(BOUNDS, Step(0, 2, 1, [BUSY]), Step(9, 1, 1, [BUSY]), Step(11, 2, 1, [BUSY]), Step(20, 2, 1, [BUSY]))
    assert [each.replicas for each in found] == [1, 1, 1, 1]


def test_never_above_max_nor_below_min_and_spares_beyond():
    now = BOUNDS._replace(upscale_delay_s=0)
    assert run(now, Step(0, 99, 1, [BUSY]))[0].replicas == 4
    assert run(now._replace(spare=1), Step(0, 99, 2, [BUSY] * 2))[0].replicas == 5
    # two answer and one is a spare: what is needed is one
    down = now._replace(spare=1, downscale_delay_s=0)
    state = State(cold_start_s=0.0)
    assert [each.replicas for each in run(down, Step(0, 0, 3, [BUSY] * 3), state=state)] == [2]
    # the job was deployed with other bounds
    assert run(now._replace(min=2), Step(0, 1, 1, [BUSY]))[0].replicas == 2


def test_fewer_are_asked_for_only_to_the_most_that_was_needed_meanwhile():
    state = State(cold_start_s=1.0)
    steps = [Step(0, 1, 4, [BUSY] * 4), Step(50, 2.5, 4, [BUSY] * 4), Step(99, 1, 4, [BUSY] * 4), Step(100, 1, 4, [BUSY] * 4)]
    assert [each.replicas for each in run(BOUNDS, *steps, state=state)] == [4, 4, 4, 3]


def test_none_is_removed_sooner_than_a_start_takes():
    eager = BOUNDS._replace(downscale_delay_s=0)
    slow = State(cold_start_s=40.0)
    assert [each.replicas for each in run(eager, *(Step(t, 1, 2, [BUSY] * 2) for t in (0, 39, 40)), state=slow)] == [2, 2, 1]
    # while no start was seen: a minute
    assert [each.replicas for each in run(eager, *(Step(t, 1, 2, [BUSY] * 2) for t in (0, 59, 60)))] == [2, 2, 1]


def test_a_replica_that_has_told_nothing_is_not_idle():
    """The trap of a cold start: the request that woke it is on its way, and every number that is known is zero."""
    zero = Bounds(min=0, max=2, upscale_delay_s=0, downscale_delay_s=0)
    state = State(cold_start_s=0.0)
    idle = Load(0, 0, 0, 0.0, None, 0.0, 0)
    woken = [Step(0, 0, 1, [], at_door=1.0), Step(5, 0, 1, []), Step(6, 0, 1, [None]), Step(9, 0, 1, [None])]
    found = run(zero, *woken, Step(10, 0, 1, [BUSY]), state=state)
    assert [each.replicas for each in found[:4]] == [1, 1, 1, 1]
    assert found[1].reason.endswith("kept, 1 are starting") and found[2].reason.endswith("kept, 1 have told nothing yet")
    # it took 6 s to start, so it stays idle that long at least
    after = run(zero, Step(10, 0, 1, [idle]), Step(15.9, 0, 1, [idle]), Step(16, 0, 1, [idle]), state=found[3].state)
    assert [each.replicas for each in after] == [1, 1, 0]


def test_a_request_at_the_door_asks_for_the_first_replica_at_once():
    zero = Bounds(min=0, max=2, upscale_delay_s=30)
    assert [each.replicas for each in run(zero, Step(0, 0, 0, []), Step(1, 0, 0, [], at_door=3.0))] == [0, 1]
    assert run(zero, Step(0, 0, 0, [], at_door=3.0))[0].reason.startswith("3 requests wait and no replica stands")


def test_replicas_that_are_asked_for_are_not_asked_for_again():
    now = BOUNDS._replace(upscale_delay_s=0)
    found = run(now, Step(0, 3, 1, [BUSY]), Step(1, 3, 3, [BUSY]), Step(2, 3, 3, [BUSY]))
    assert [each.replicas for each in found] == [3, 3, 3]


def test_a_start_is_measured():
    now = BOUNDS._replace(upscale_delay_s=0)
    found = run(now, Step(0, 2, 1, [BUSY]), Step(1, 2, 2, [BUSY]), Step(13, 2, 2, [BUSY]), Step(18, 2, 2, [BUSY, None]))
    assert found[2].state.cold_start_s is None and found[3].state.cold_start_s == 17.0
