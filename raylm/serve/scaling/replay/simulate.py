"""Replays a trace against a model of replicas under one scaling policy: the same `decide` that Serve's controller calls, the same
routing card that gateways ask.

arrivals -> gateway (holds, routes) -> engines        each second: loads -> decide -> starts and ends
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from raylm.serve.directory import Address, Load
from raylm.serve.routing.least_loaded import LeastLoaded
from raylm.serve.routing.routing import Asked, Candidate, RoutingCard
from raylm.serve.scaling.decide import Bounds, State, decide
from raylm.serve.scaling.log import entry
from raylm.serve.scaling.observed import Observed
from raylm.serve.scaling.replay.engine import Ended, Engine, EngineModel, Job
from raylm.serve.scaling.replay.trace import Arrival
from raylm.serve.scaling.scaling import ScalingCard

TICK_S = 0.5
"""Seconds between two reports of replicas, and two decisions."""


class Served(NamedTuple):
    """How a request fared."""

    at: float
    """When it came."""
    ttft_s: float | None
    """Seconds to its first token; None where it was refused, or the replay ended before."""
    seconds: float | None
    refused: bool = False


class Moment(NamedTuple):
    """The endpoint at one tick."""

    at: float
    running: int
    starting: int
    ongoing: int
    queued_tokens: int
    held: int


class Replay(NamedTuple):
    """What came out."""

    name: str
    served: list[Served]
    moments: list[Moment]
    decisions: list[dict[str, Any]]
    """Those that changed something, as in the log; `at` in seconds."""
    replica_s: float
    """Seconds of all replicas together, starts and ends included: what they cost."""


class _Replica:
    def __init__(self, number: int, model: EngineModel, asked_at: float, ready_at: float) -> None:
        self.number, self.asked_at, self.ready_at = number, asked_at, ready_at
        self.engine = Engine(model, ready_at)
        self.answers = self.draining = False
        self.address = Address(f"r{number}", "m", "", 0, "")
        self.load: Load | None = None
        self.tokens = 0
        """Of requests that it was sent and has not ended."""
        self.plan = 0
        """Number of the last plan of its next event: earlier ones do not count."""


class Simulator:
    """One replay.

    Args:
        replicas: that stand at the start; least ones where it is not said.
        hold_s: seconds that a request waits for a replica before it is refused.
    """

    def __init__(
        self, card: ScalingCard, bounds: Bounds, model: EngineModel, routing: RoutingCard | None = None,
        replicas: int | None = None, hold_s: float = 60.0,
    ) -> None:  # fmt: skip
        self._card, self._bounds, self._model = card, bounds, model
        self._routing, self._hold_s = routing or LeastLoaded(), hold_s
        self._state, self._count, self._replica_s, self._now = State(cold_start_s=model.cold_start_s), 0, 0.0, 0.0
        self._replicas: list[_Replica] = []
        self._held: deque[Job] = deque()
        self._events: list[tuple[float, int, int, int]] = []
        self._order = 0
        self._target = bounds.min + bounds.spare if replicas is None else replicas
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._refused: set[int] = set()
        for _ in range(self._target):
            self._start(0.0, cold_s=0.0)

    def run(self, arrivals: Sequence[Arrival], name: str = "", tail_s: float = 0.0) -> Replay:
        """Replay all arrivals, and go on until every request has ended, and `tail_s` beyond."""
        moments: list[Moment] = []
        decisions: list[dict[str, Any]] = []
        end, tick, at = (arrivals[-1].at if arrivals else 0.0) + tail_s, 0.0, 0
        while at < len(arrivals) or tick <= end or self._busy():
            event = self._events[0][0] if self._events else float("inf")
            came = arrivals[at].at if at < len(arrivals) else float("inf")
            if tick <= min(event, came):
                moments.append(self._tick(tick, decisions))
                tick += TICK_S
            elif came < event:
                self._arrive(Job(at, came, max(arrivals[at].prompt, 1), max(arrivals[at].answer, 1)), came)
                at += 1
            else:
                self._event()
        stopped = max(tick - TICK_S, self._now)
        for replica in self._replicas:
            self._replica_s += stopped - replica.asked_at
        served = [self._fared(number, each) for number, each in enumerate(arrivals)]
        return Replay(name, served, moments, decisions, self._replica_s)

    def _busy(self) -> bool:
        return bool(self._held) or any(each.engine.ongoing for each in self._replicas)

    def _fared(self, number: int, arrival: Arrival) -> Served:
        first, last = self._first.get(number), self._last.get(number)
        return Served(
            arrival.at,
            None if first is None else first - arrival.at,
            None if last is None else last - arrival.at,
            number in self._refused,
        )

    def _tick(self, now: float, decisions: list[dict[str, Any]]) -> Moment:
        self._begin_ready(now)
        self._refuse(now)
        running = [each for each in self._replicas if each.answers and not each.draining]
        for each in running:
            self._ended(each, each.engine.advance(now))
            # a replica that has just started reports with the next tick
            each.load = each.engine.load() if now > each.ready_at else None
        at_door = 0.0 if running else float(len(self._held))
        held = len(self._held) if running else 0
        observed = Observed(now, self._target, {each.address.replica: each.load for each in running}, held, at_door)
        decision = decide(observed, self._state, self._card, self._bounds)
        self._state = decision.state
        if decision.replicas != self._target:
            decisions.append({"at": now, **entry("m", observed, decision)})
            self._target = decision.replicas
            self._scale(now)
        starting = sum(not each.answers for each in self._replicas)
        unread = sum(load.queued_tokens or 0 for load in observed.known)
        return Moment(now, len(running), starting, observed.ongoing, unread, len(self._held))

    def _scale(self, now: float) -> None:
        stand = [each for each in self._replicas if not each.draining]
        for _ in range(self._target - len(stand)):
            self._start(now, self._model.cold_start_s)
        # those that have not started cost least to let go, then the youngest
        for each in sorted(stand, key=lambda each: (each.answers, -each.number))[: max(0, len(stand) - self._target)]:
            each.draining = True
            self._leave(each, now)

    def _start(self, now: float, cold_s: float) -> None:
        self._count += 1
        self._replicas.append(_Replica(self._count, self._model, now, now + cold_s))
        self._push(now + cold_s, self._count, -1)

    def _leave(self, replica: _Replica, now: float) -> None:
        if replica.draining and not replica.engine.ongoing:
            self._replicas.remove(replica)
            self._replica_s += now - replica.asked_at

    def _begin_ready(self, now: float) -> None:
        for each in self._replicas:
            each.answers = each.answers or each.ready_at <= now
        self._place(now)

    def _arrive(self, job: Job, now: float) -> None:
        self._held.append(job)
        self._place(now)

    def _place(self, now: float) -> None:
        """Give held requests, first come, first served, to replicas with room; one waits as a spare where there are spares."""
        while self._held:
            ready = [each for each in self._replicas if each.answers and not each.draining]
            ready = ready[: max(1, len(ready) - self._bounds.spare)]
            open_ = [each for each in ready if each.engine.ongoing < self._bounds.most_ongoing]
            if not open_:
                return
            job = self._held.popleft()
            asked = Asked("m", "/v1/completions", tokens=job.prompt + job.answer)
            candidates = [Candidate(each.address, each.load or Load(), each.engine.ongoing, each.tokens) for each in open_]
            chosen = open_[candidates.index(self._routing.choose(asked, candidates))] if len(open_) > 1 else open_[0]
            chosen.tokens += asked.tokens
            self._ended(chosen, chosen.engine.add(job._replace(came=now), now))
            self._plan(chosen)

    def _event(self) -> None:
        now, _, number, plan = heapq.heappop(self._events)
        self._now = now
        replica = next((each for each in self._replicas if each.number == number), None)
        if replica is None:
            return
        if plan < 0:
            self._begin_ready(now)
        elif plan == replica.plan:
            self._ended(replica, replica.engine.advance(now))
            self._plan(replica)
            self._leave(replica, now)
            self._place(now)

    def _ended(self, replica: _Replica, ended: list[Ended]) -> None:
        for each in ended:
            number = each.job.number
            if each.first:
                self._first[number] = each.at
            if each.last:
                self._last[number] = each.at
                replica.tokens -= each.job.prompt + each.job.answer
        if ended:
            self._plan(replica)

    def _plan(self, replica: _Replica) -> None:
        replica.plan += 1
        if (at := replica.engine.next_at()) is not None:
            self._push(at, replica.number, replica.plan)

    def _push(self, at: float, number: int, plan: int) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, number, plan))

    def _refuse(self, now: float) -> None:
        while self._held and now - self._held[0].came >= self._hold_s:
            self._refused.add(self._held.popleft().number)
