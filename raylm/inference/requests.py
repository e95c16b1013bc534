"""Requests to generators: which wait, which run where, which are answered. Without processes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from raylm.inference.completions import Sampling


@dataclass(eq=False)
class Request:
    """`sampling.n` completions of one prompt."""

    key: Hashable
    tokens: list[int]
    sampling: Sampling
    seed: int
    owner: object = None
    """Who takes the answer; None for those that `wait` is asked by."""
    losses: int = 0
    """Generators that were lost while it ran there."""
    deaths: int = 0
    """Those among them that it may have ended itself."""
    proved: bool = False
    """The last one died of it: it was alone there, and the first thing that it was asked."""
    reference: Any = None
    """Of the call that runs."""
    answer: Any = None
    """Completions, or the exception that the generator raised."""


class Requests:
    """All that were not collected yet.

    Args:
        alone_from: deaths from which one of those that `wait` collects has a generator to itself, so that it is known whether it
            is what ends them; None: never.
    """

    def __init__(self, alone_from: int | None = None) -> None:
        self._alone_from = alone_from
        self.owed: deque[Request] = deque()
        """Those that no generator has."""
        self.running: dict[Request, int] = {}
        """Those that a generator has, and its place."""
        self.unproved: dict[Request, int] = {}
        """Those that were answered by a generator which is yet to prove what weights it holds."""
        self.done: list[Request] = []
        self.lost_at: dict[int, set[Request]] = {}
        """Those that were lost with the generator of a place, and are still not answered."""
        self._alone: dict[Request, int] = {}
        """Those that have a generator to themselves, and its place."""
        self._used: set[int] = set()
        """Places whose generator has answered something."""
        self._all: dict[tuple[object, Hashable], Request] = {}
        self._load = Counter[int]()

    def add(self, request: Request) -> None:
        """Owe one more. Raises ValueError where its key is taken."""
        if (request.owner, request.key) in self._all:
            raise ValueError(f"a request with the key {request.key!r} is under way")
        self._all[request.owner, request.key] = request
        self.owed.append(request)

    def find(self, owner: object, key: Hashable) -> Request | None:
        """The one with this key, whether answered or not; None after it was collected."""
        return self._all.get((owner, key))

    def outstanding(self, owner: object) -> bool:
        """Whether any of this owner is not answered."""
        return any(one.owner is owner for group in (self.running, self.owed, self.unproved) for one in group)

    def next_place(self, places: list[int], most: int) -> int | None:
        """Where the next request is to run: the place that works on the fewest completions; None where none has room.

        Args:
            most: completions that one generator is asked for at a time; a request that alone asks for more has one to itself.
        """
        taken = self._alone.values()
        places = [place for place in places if place not in taken]
        if not self.owed or not places:
            return None
        place = min(places, key=self._load.__getitem__)
        fits = not self.suspected(self.owed[0]) and self._load[place] + self.owed[0].sampling.n <= most
        return place if fits or not self._load[place] else None

    def suspected(self, request: Request) -> bool:
        """Whether it ended so many generators that it must run alone."""
        return self._alone_from is not None and request.owner is None and request.deaths >= self._alone_from

    def run(self, place: int) -> Request:
        """The next request goes to `place`."""
        request = self.owed.popleft()
        self.running[request] = place
        self._load[place] += request.sampling.n
        if self.suspected(request):
            self._alone[request] = place
        return request

    def answered(self, request: Request, answer: Any, proved: bool) -> None:
        """Take an answer: completions, or an exception that is the request's own fault."""
        place = self._stop(request)
        self._used.add(place)
        request.answer = answer
        if proved:
            self._finish(request)
        else:
            self.unproved[request] = place

    def proved(self, place: int) -> None:
        """What the generator of a place answered before it was proved counts."""
        for request in [one for one, at in self.unproved.items() if at == place]:
            del self.unproved[request]
            self._finish(request)

    def lost(self, place: int, by_request: bool = True) -> list[Request]:
        """All that a lost generator had, and what it answered without proof, is owed again, before the others.

        Args:
            by_request: one of those that ran may be why it was lost.
        """
        gone = [one for group in (self.unproved, self.running) for one, at in group.items() if at == place]
        for request in gone:
            request.deaths += by_request and request in self.running
            request.proved = by_request and self._alone.get(request) == place and place not in self._used
            self.unproved.pop(request, None)
            self._stop(request)
            request.losses, request.answer, request.reference = request.losses + 1, None, None
        self._used.discard(place)
        self.owed.extendleft(reversed(gone))
        self.lost_at.setdefault(place, set()).update(gone)
        return gone

    def forget(self, request: Request) -> None:
        """It is cancelled."""
        for group in (self.owed, self.done):
            if request in group:
                group.remove(request)
        self.unproved.pop(request, None)
        self._stop(request)
        self._no_longer_lost(request)
        del self._all[request.owner, request.key]

    def fail(self, request: Request, answer: Any) -> None:
        """No generator is asked: this is the answer, an exception or what stands for completions."""
        self.owed.remove(request)
        request.answer = answer
        self._finish(request)

    def collect(self, owner: object) -> list[Request]:
        """All of this owner that are done; they are known no longer. One that failed comes alone, when it is its turn."""
        found: list[Request] = []
        for request in self.done:
            if request.owner is not owner:
                continue
            if isinstance(request.answer, Exception):
                found = found or [request]
                break
            found.append(request)
        taken = set(found)
        self.done = [one for one in self.done if one not in taken]
        for request in found:
            del self._all[owner, request.key]
        return found

    def _stop(self, request: Request) -> int:
        place = self.running.pop(request, -1)
        self._alone.pop(request, None)
        if place >= 0:
            self._load[place] -= request.sampling.n
        return place

    def _finish(self, request: Request) -> None:
        self._no_longer_lost(request)
        self.done.append(request)

    def _no_longer_lost(self, request: Request) -> None:
        for lost in self.lost_at.values():
            lost.discard(request)
