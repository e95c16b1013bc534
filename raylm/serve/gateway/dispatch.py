"""Which replica gets a request, and who waits where none has room: first come, first served within a key, keys in turn.

Asked --place--> room? --routing card--> Candidate          (taken until `free`)
                  \\-> waits in its model's queue (bounded in number and seconds) -> Candidate, or 429 / 503
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from raylm.core.config import card_kind, resolve
from raylm.serve.api.models import ADAPTERS
from raylm.serve.directory import Address, Replica, View
from raylm.serve.envelope import Refusal, Refused
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.routing.least_loaded import LeastLoaded
from raylm.serve.routing.routing import Asked, Candidate, RoutingCard


class Wanted(NamedTuple):
    """What a request must have of its replica."""

    asked: Asked
    like: Address | None = None
    """Only one with these weights, adapter and number format: it goes on with an answer of that replica's."""

    def fits(self, address: Address) -> bool:
        """Whether a replica may be asked."""
        if self.like and _weights(address, self.asked.model) != _weights(self.like, self.asked.model):
            return False
        # a page that every replica has is asked for without a path
        return not address.routes or not self.asked.path or self.asked.path in address.routes


class _Waiting(NamedTuple):
    wanted: Wanted
    placed: asyncio.Future[Candidate]


class _UnderWay:
    """What this gateway sent one replica and has not ended."""

    def __init__(self) -> None:
        self.requests = self.tokens = 0


class Dispatch:
    """All models of one gateway.

    Args:
        wake: told of a model that is asked for and has no replica.
    """

    def __init__(self, settings: GatewaySettings, wake: Callable[[ModelFacts], None]) -> None:
        self._models = {model.name: model for model in settings.models}
        self._cards = {model.name: _card(model) for model in settings.models}
        self._spec, self._share, self._wake = settings.spec, max(1, settings.num_gateways), wake
        self._view, self._under_way = View(0), dict[str, _UnderWay]()
        self._queues: dict[str, OrderedDict[str, deque[_Waiting]]] = {}
        self._others: dict[str, int] = {}
        self._suspects: dict[str, Address] = {}
        self._held_back = ""

    @property
    def view(self) -> View:
        """As Control told it last."""
        return self._view

    def suspected(self, address: Address) -> bool:
        """Whether it failed a request since it last answered. One that has started again, elsewhere, is another."""
        return (found := self._suspects.get(address.replica)) is not None and _place(found) == _place(address)

    def see(self, view: View) -> None:
        """The table has changed, or its loads."""
        if (rollout := view.rollout) is not None and rollout.number == self._held_back and rollout.allows is not None:
            view = view._replace(rollout=rollout.held_back())
        self._view = view
        known = {row.address.replica: _place(row.address) for row in view.replicas}
        self._suspects = {name: address for name, address in self._suspects.items() if known.get(name) == _place(address)}
        self._under_way = {name: held for name, held in self._under_way.items() if held.requests or name in known}
        # a load is as old as its beat: where nobody else sends anything, none of it is anybody else's
        self._others = {row.address.replica: self._sent_by_others(row) for row in view.replicas} if self._share > 1 else {}
        for model in list(self._queues):
            self._serve(model)

    def hold_back(self, number: str) -> None:
        """The new version of the update `number` gets no request any more, whatever the table says: Control hears of it later."""
        self._held_back = number
        self.see(self._view)

    def _sent_by_others(self, row: Replica) -> int:
        return max(0, (row.load.running or 0) + (row.load.waiting or 0) - self.under_way(row.address.replica))

    def suspect(self, address: Address) -> None:
        """It failed a request: nothing is sent there until `trust`."""
        self._suspects[address.replica] = address

    def trust(self, address: Address) -> None:
        """It answers again."""
        if self.suspected(address):
            del self._suspects[address.replica]
            for model in list(self._queues):
                self._serve(model)

    def models(self) -> dict[str, ModelFacts]:
        """Every name that may be asked for, adapters' too, with its model."""
        found = dict(self._models)
        for row in self._view.replicas:
            if (model := self._models.get(row.address.model)) is not None:
                found.update({name: model for name in row.address.adapters if name not in found})
        return found

    def held(self) -> dict[str, int]:
        """Requests that wait, by the model's name."""
        return {model: sum(map(len, keys.values())) for model, keys in self._queues.items()}

    def under_way(self, replica: str) -> int:
        """Requests that this gateway sent it and that have not ended."""
        return held.requests if (held := self._under_way.get(replica)) else 0

    async def place(self, wanted: Wanted, until: float) -> Candidate:
        """A replica for a request; it counts as under way there until `free`.

        Args:
            until: when a request that waits is told to come again (time.monotonic).

        Raises:
            Refused: 429 where too many wait or all replicas stayed busy, 503 where none came.
        """
        if (facts := self.models().get(wanted.asked.model)) is None:
            # its adapter was unloaded meanwhile
            raise Refused(_nobody())
        model = facts.name
        queue = self._queues.get(model)
        if not queue and (candidate := self._choose(model, wanted, random.random())) is not None:
            return self._take(candidate, wanted.asked)
        if wanted.like is None and sum(self.held().values()) >= self._spec.most_held:
            raise Refused(_busy())
        return await self._wait(model, wanted, until)

    def free(self, candidate: Candidate, asked: Asked) -> None:
        """A request has ended there."""
        held = self._under_way.get(candidate.address.replica)
        if held is not None:
            held.requests, held.tokens = held.requests - 1, held.tokens - asked.tokens
        self._serve(candidate.address.model)

    async def _wait(self, model: str, wanted: Wanted, until: float) -> Candidate:
        waiting = _Waiting(wanted, asyncio.get_running_loop().create_future())
        keys = self._queues.setdefault(model, OrderedDict())
        line = keys.setdefault(wanted.asked.key, deque())
        # an answer that has begun goes before those that have not
        line.appendleft(waiting) if wanted.like else line.append(waiting)
        self._wake_where_none(model)
        # those before it may wait for something else
        self._serve(model)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                return await waiting.placed
        except TimeoutError:
            if waiting.placed.done() and not waiting.placed.cancelled():
                # both in one turn of the loop: the place has been taken
                return waiting.placed.result()
            raise Refused(_busy() if self._able(model, wanted) else _nobody()) from None
        except asyncio.CancelledError:
            if waiting.placed.done() and not waiting.placed.cancelled():
                self.free(waiting.placed.result(), wanted.asked)
            raise
        finally:
            self._forget(model, wanted.asked.key, waiting)

    def _forget(self, model: str, key: str, waiting: _Waiting) -> None:
        keys = self._queues.get(model, OrderedDict())
        if (line := keys.get(key)) is not None and waiting in line:
            line.remove(waiting)
            if not line:
                del keys[key]
        if not keys:
            self._queues.pop(model, None)

    def _serve(self, model: str) -> None:
        """Give those who wait what there is room for: each key once, then again."""
        more = True
        while more and self._has_room(model):
            more = sum(self._serve_key(model, key) for key in list(self._queues.get(model, ()))) > 0

    def _serve_key(self, model: str, key: str) -> bool:
        """Place the first of a key that somebody has room for; whether there was one."""
        keys = self._queues.get(model)
        line = keys.get(key) if keys else None
        if not keys or not line or (found := self._next(model, line)) is None:
            return False
        waiting, candidate = found
        line.remove(waiting)
        keys.move_to_end(key)
        if not line:
            del keys[key]
        waiting.placed.set_result(self._take(candidate, waiting.wanted.asked))
        return True

    def _next(self, model: str, line: deque[_Waiting]) -> tuple[_Waiting, Candidate] | None:
        """The first of a key that somebody has room for; one that needs special weights, an adapter or a version that is full
        holds up no other."""
        tried = set[tuple[str, str, bool]]()
        for waiting in line:
            wanted, draw = waiting.wanted, random.random()
            kind = self._kind(wanted.asked, draw)
            if waiting.placed.done() or (wanted.like is None and kind in tried):
                continue
            if (candidate := self._choose(model, wanted, draw)) is not None:
                return waiting, candidate
            if wanted.like is None:
                tried.add(kind)
        return None

    def _kind(self, asked: Asked, draw: float) -> tuple[str, str, bool]:
        """Requests alike in this can go to the same replicas: adapter, route, and version of an update."""
        rollout = self._view.rollout
        return asked.model, asked.path, rollout is not None and rollout.chosen(asked, draw)

    def _able(self, model: str, wanted: Wanted) -> list[Replica]:
        """Replicas that may be asked, busy or not."""
        rows = [row for row in self._view.ready(wanted.asked.model) if row.address.model == model]
        return [row for row in rows if not self.suspected(row.address) and wanted.fits(row.address)]

    def _has_room(self, model: str) -> bool:
        most = self._most(model)
        return any(
            row.state == "ready" and row.address.model == model and self.under_way(row.address.replica) < most
            for row in self._view.replicas
            if not self.suspected(row.address)
        )

    def _most(self, model: str) -> int:
        """Requests that this gateway may have at one replica."""
        return max(1, -(-self._models[model].most_ongoing // self._share))

    def _choose(self, model: str, wanted: Wanted, draw: float) -> Candidate | None:
        candidates = [self._candidate(row) for row in self._able(model, wanted)]
        if self._view.rollout is not None and wanted.like is None:
            # before room is looked for: a version that is full does not send its requests to the other one
            candidates = self._view.rollout.allowed(wanted.asked, candidates, draw)
        most = self._most(model)
        candidates = [each for each in candidates if each.under_way < most]
        if not candidates:
            return None
        return candidates[0] if len(candidates) == 1 else self._routed(model, wanted.asked, candidates)

    def _routed(self, model: str, asked: Asked, candidates: list[Candidate]) -> Candidate:
        """What the model's card says; where it fails, the one with the least load: this runs in the end of others' requests, and
        where the view is renewed."""
        try:
            chosen = self._cards[model].choose(asked, candidates)
            if chosen in candidates:
                return chosen
            raise TypeError(f"choose returned {type(chosen).__name__}, which is none of the candidates")
        # somebody else's module: a mistake in it shows as any exception
        except (Exception, SystemExit):
            logging.getLogger("raylm.gateway").exception("the routing card %s failed", card_kind(self._cards[model]))
            return LeastLoaded().choose(asked, candidates)

    def _candidate(self, row: Replica) -> Candidate:
        held, others = self._under_way.get(row.address.replica) or _UnderWay(), self._others.get(row.address.replica, 0)
        return Candidate(row.address, row.load, held.requests, held.tokens, others)

    def _take(self, candidate: Candidate, asked: Asked) -> Candidate:
        held = self._under_way.setdefault(candidate.address.replica, _UnderWay())
        held.requests, held.tokens = held.requests + 1, held.tokens + asked.tokens
        return candidate

    def _wake_where_none(self, model: str) -> None:
        if not any(row.address.model == model for row in self._view.replicas):
            self._wake(self._models[model])


def _weights(address: Address, name: str) -> tuple[str, str, str | None]:
    """What answers to a name: the model's weights, and the adapter where it is one's name; another may have come under it."""
    adapter = (address.lineage.get(ADAPTERS) or {}).get(name) or {}
    return address.fingerprint, address.dtype, adapter.get("fingerprint")


def _place(address: Address) -> tuple[str, int, str]:
    return address.host, address.port, address.secret


def _card(model: ModelFacts) -> RoutingCard:
    return resolve(model.routing) if model.routing is not None else LeastLoaded()


def _busy() -> Refusal:
    message = "The endpoint has as many requests as it takes; send the request again in a few seconds."
    return Refusal(429, message, "overloaded", None, 5)


def _nobody() -> Refusal:
    message = "No replica of this model answers just now; send the request again in a few seconds."
    return Refusal(503, message, "unavailable", None, 5)
