"""From what a load needs to a number of replicas that is asked for: bounds, delays, starts that are under way, and what is not
known yet. A pure function: Serve's controller and the simulator call the same.

Observed, State, card -> decide -> Decision (replicas, reason, State)
"""

from __future__ import annotations

import math
from typing import NamedTuple

from raylm.serve.scaling.observed import Flow, Observed, follow
from raylm.serve.scaling.scaling import Need, Room, ScalingCard

COLD_START_S = 60.0
"""Seconds that a start takes while none was seen."""
EPS = 1e-6


class Bounds(NamedTuple):
    """Of a model's replicas, from its job file."""

    min: int = 1
    max: int = 1
    spare: int = 0
    """Replicas beyond these that answer nobody."""
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    most_ongoing: int = 256


class State(NamedTuple):
    """What is remembered from one decision to the next."""

    flow: Flow = Flow()
    direction: int = 0
    """+1: more are needed, -1: fewer would do; and"""
    since: float = 0.0
    """since when."""
    peak: int = 0
    """Most that were needed at a time since fewer would do."""
    starting_since: float | None = None
    """Since when replicas are missing that were asked for."""
    cold_start_s: float | None = None
    """Seconds that the last start took; None while none was seen."""
    running: int = 0


class Decision(NamedTuple):
    """What is asked for from now on."""

    replicas: int
    """Spares included."""
    reason: str
    kind: str
    state: State
    needed: float = 0.0
    """What the load needs, not rounded; no spares."""


def decide(observed: Observed, state: State, card: ScalingCard, bounds: Bounds) -> Decision:
    """Replicas that there should be, and why.

    A replica that has told nothing yet may be as busy as any: none is removed meanwhile. The target of a start that is under
    way stays. What is removed must be paid for again with a start, so none is removed before fewer would have done for as long
    as a start takes, or the delay where that is longer (the rule of ski rental: at most twice the cost of knowing the future).
    """
    state = _watch_starts(observed, state)._replace(flow=follow(state.flow, observed, card.look_back_s))
    cold_s = COLD_START_S if state.cold_start_s is None else state.cold_start_s
    room = Room(max(observed.running - bounds.spare, min(observed.running, 1)), bounds.most_ongoing, cold_s)
    need = _at_door(observed) or card.needs(observed, state.flow, room)
    wanted, kept = (
        bounds.spare + min(max(math.ceil(each - EPS), bounds.min), bounds.max) for each in (need.replicas, need.stays)
    )
    why = f"{need.why}: {need.replicas:.2f} of {bounds.min} to {bounds.max} are needed"
    target = min(max(observed.target, bounds.min + bounds.spare), bounds.max + bounds.spare)
    if target != observed.target:
        return _decided(target, "the bounds are others", "bounds", need, _turn(state, 0, observed.now))
    if wanted > target:
        return _up(observed, state, bounds, wanted, need, why)
    if kept < target:
        return _down(observed, state, bounds, kept, need, why, cold_s)
    return _decided(target, why, need.kind, need, _turn(state, 0, observed.now))


def _at_door(observed: Observed) -> Need | None:
    """Requests that wait where nobody answers are needed for, whatever the card sees."""
    if observed.running or not observed.at_door:
        return None
    return Need(1.0, f"{observed.at_door:.0f} requests wait and no replica stands", "door")


def _up(observed: Observed, state: State, bounds: Bounds, wanted: int, need: Need, why: str) -> Decision:
    state = _turn(state, 1, observed.now)
    lasted, delay = observed.now - state.since, bounds.upscale_delay_s
    if lasted + EPS < delay and observed.running:
        return _decided(observed.target, f"{why}; since {lasted:.1f} of {delay:g} s", f"{need.kind}_waits", need, state)
    return _decided(wanted, why, need.kind, need, _turn(state, 0, observed.now))


def _down(observed: Observed, state: State, bounds: Bounds, kept: int, need: Need, why: str, cold_s: float) -> Decision:
    target, unknown = observed.target, [name for name, load in observed.loads.items() if load is None]
    if unknown or observed.running < target:
        missing = f"{len(unknown)} have told nothing yet" if unknown else f"{target - observed.running} are starting"
        return _decided(target, f"{why}; kept, {missing}", "unknown", need, _turn(state, 0, observed.now))
    state = _turn(state, -1, observed.now)
    state = state._replace(peak=max(state.peak, kept))
    lasted, delay = observed.now - state.since, max(bounds.downscale_delay_s, cold_s)
    if lasted + EPS < delay:
        return _decided(target, f"{why}; since {lasted:.0f} of {delay:.0f} s", "idle_waits", need, state)
    # Serve lets the last one go by itself
    fewer = max(state.peak, 1) if target > 1 else state.peak
    why = f"for {lasted:.0f} s no more than {fewer} were needed; now {why}"
    return _decided(min(fewer, target), why, need.kind, need, _turn(state, 0, observed.now))


def _decided(replicas: int, reason: str, kind: str, need: Need, state: State) -> Decision:
    return Decision(replicas, reason, kind, state, need.replicas)


def _turn(state: State, direction: int, now: float) -> State:
    if direction == state.direction:
        return state
    return state._replace(direction=direction, since=now, peak=0)


def _watch_starts(observed: Observed, state: State) -> State:
    """Measure how long a replica takes from being asked for until it runs."""
    running, missing, cold_s = observed.running, observed.running < observed.target, state.cold_start_s
    began = state.starting_since
    if began is not None and running > state.running:
        cold_s, began = observed.now - began, None
    return state._replace(
        running=running,
        cold_start_s=cold_s,
        starting_since=(observed.now if began is None else began) if missing else None,
    )
