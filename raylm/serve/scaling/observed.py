"""What a scaling policy sees of a model's replicas, and what it makes of it over time: how fast tokens arrive, and how many one
replica reads when it has all it can do.

Observed, Flow --follow--> Flow
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from raylm.serve.directory import Load

LEARN_S, FIRST_S = 3.0, 1.0
"""Seconds of being busy after which what a replica read in them is taken for all that it can; while nothing is known, so many."""
WEIGHT = 0.3
"""Of a new measurement of that, against what was known."""
CALM_S = 1.0
"""Seconds of reading that may wait while replicas count as not overloaded."""


class Observed(NamedTuple):
    """A model's replicas at one moment."""

    now: float
    """Seconds of a clock that goes forward."""
    target: int
    """Replicas that were asked for, spares included."""
    loads: Mapping[str, Load | None]
    """Of each replica that runs, by its name; None where it has told nothing yet, or not for long: unknown is not zero."""
    held: int = 0
    """Requests that wait in gateways because no replica has room."""
    at_door: float = 0.0
    """Requests that wait for a first replica."""

    @property
    def known(self) -> list[Load]:
        """Loads that were told."""
        return [load for load in self.loads.values() if load is not None]

    @property
    def running(self) -> int:
        """Replicas that run."""
        return len(self.loads)

    @property
    def ongoing(self) -> int:
        """Requests that replicas have, and that wait for one."""
        return self.held + sum((load.running or 0) + (load.waiting or 0) for load in self.known)

    @property
    def queued_tokens(self) -> int:
        """Tokens of prompts that replicas have not read yet."""
        return sum(load.queued_tokens or 0 for load in self.known)


class Reading(NamedTuple):
    """A replica as it was last heard."""

    at: float
    read: int
    queued: int
    prompts: int
    busy_s: float = 0.0
    """Seconds in which it was never idle, since something was learned of it, and"""
    busy_read: int = 0
    """the tokens that it read in them."""


class Point(NamedTuple):
    """All replicas at one moment."""

    at: float
    read: int
    """Tokens that all have read so far."""
    waiting: float
    """Tokens that wait, those of held requests estimated."""
    prompts: int = 0
    """Prompts that all have read so far."""


class Flow(NamedTuple):
    """Tokens of prompts, in and out, of the last seconds; bounded."""

    points: tuple[Point, ...] = ()
    readings: Mapping[str, Reading] = {}
    capacity: float | None = None
    """Tokens per second that one replica reads when it is never idle; None while none was seen so busy."""
    carried: float = 0.0
    """Most tokens per second that one has read while few waited."""
    made: float = 0.0
    """Most tokens per second that one has made."""
    per_request: float = 256.0
    """Tokens of a prompt, of late; none that was read yet: an assumption."""

    @property
    def span_s(self) -> float:
        """Seconds that are looked back over."""
        return self.points[-1].at - self.points[0].at if self.points else 0.0

    @property
    def read_s(self) -> float:
        """Tokens per second that all replicas read together."""
        return (self.points[-1].read - self.points[0].read) / self.span_s if self.span_s else 0.0

    def arriving_s(self, seconds: float = float("inf"), prompts: int = 0) -> float:
        """Tokens per second that arrived in the last `seconds`: what was read, and by how much more waits than before. In more
        seconds where fewer than `prompts` were read in these: they come at random."""
        if not self.span_s:
            return 0.0
        last, first = self.points[-1], self.points[0]
        for each in reversed(self.points[:-1]):
            first = each
            if last.at - each.at >= seconds and last.prompts - each.prompts >= prompts:
                break
        return max(0.0, (last.read - first.read + last.waiting - first.waiting) / (last.at - first.at))

    @property
    def waiting(self) -> float:
        """Tokens that wait now."""
        return self.points[-1].waiting if self.points else 0.0


def follow(flow: Flow, observed: Observed, look_back_s: float) -> Flow:
    """`flow` with one more look at the replicas."""
    readings, gained, prompts, capacity = {}, 0, 0, flow.capacity
    for name, load in observed.loads.items():
        if load is None or load.read_tokens is None:
            continue
        before = flow.readings.get(name)
        reading = _reading(before, load, observed.now, flow.per_request)
        # what was read before the first look, or before an engine began anew, did not pass here
        if before is not None and reading.read >= before.read:
            gained, prompts = gained + reading.read - before.read, prompts + reading.prompts - before.prompts
        if reading.busy_s >= (LEARN_S if capacity else FIRST_S) and reading.busy_read:
            found = reading.busy_read / reading.busy_s
            capacity = found if capacity is None else capacity + WEIGHT * (found - capacity)
            reading = reading._replace(busy_s=0.0, busy_read=0)
        readings[name] = reading
    before = flow.points[-1] if flow.points else Point(observed.now, 0, 0.0)
    waiting = observed.queued_tokens + observed.held * flow.per_request
    point = Point(observed.now, before.read + gained, waiting, before.prompts + prompts)
    points = (*(each for each in flow.points if each.at >= observed.now - look_back_s), point)
    read, number = point.read - points[0].read, point.prompts - points[0].prompts
    per_request = read / number if read and number else flow.per_request
    flow = flow._replace(points=points, readings=readings, capacity=capacity, per_request=per_request)
    return _learn_carried(flow, observed, look_back_s)


def _reading(before: Reading | None, load: Load, now: float, per_request: float) -> Reading:
    read, queued, prompts = load.read_tokens or 0, load.queued_tokens or 0, load.read_prompts or 0
    if before is None or read < before.read:
        return Reading(now, read, queued, prompts)
    gained = read - before.read
    # of what waited before, one whole prompt still waits: it was never idle in between. With a prompt alone, moments in which it
    # is not done yet would count, and that in which it is would not
    if gained + per_request <= before.queued and before.queued >= 2 * per_request:
        return Reading(now, read, queued, prompts, before.busy_s + now - before.at, before.busy_read + gained)
    return before._replace(at=now, read=read, queued=queued, prompts=prompts)


def _learn_carried(flow: Flow, observed: Observed, look_back_s: float) -> Flow:
    known = observed.known
    if not known:
        return flow
    flow = flow._replace(made=max(flow.made, sum(load.tokens_s or 0.0 for load in known) / len(known)))
    calm = all(each.waiting <= CALM_S * flow.read_s for each in flow.points)
    if not calm or flow.span_s < 0.8 * look_back_s:
        return flow
    return flow._replace(carried=max(flow.carried, flow.read_s / len(known)))
