"""What weights the generators are to hold, and which of them do.

    sync: all that live take them at once             one that starts later takes them by a call of its own, in a thread that
                                                      waits while the trainer works

What a generator holds is known by the digest of what it took: one that took other weights than the rest, under the same
version, stays out until the next transfer. So does one whose log-probabilities are not the trainer's.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from raylm.core.errors import PlacementError, RaylmError
from raylm.inference.calls import GeneratorLost, answer_of
from raylm.inference.fleet import Fleet
from raylm.inference.health import State
from raylm.inference.probe import allowed, apart
from raylm.inference.weight_transfer import Probe, Sent

Send = Callable[[list[Any], int], Sent]
"""Brings weights to generators, given their handles and the version: `send_weights`, in the process that has the weights. It
is called from other threads too, by one at a time."""
PROBE_S = 10.0
"""Seconds that a transfer waits for answers to its probes; engines that are full of requests may answer later, and get no new
work until then."""


class HeldWeights:
    """Of the generators of a fleet.

    Args:
        on_proved: called, with the lock of the fleet held, with the place of a generator that was proved to hold what is wanted.
    """

    def __init__(self, fleet: Fleet, on_proved: Callable[[int], None]) -> None:
        self._fleet, self._lock, self._on_proved = fleet, fleet.lock, on_proved
        self._wanted: tuple[int, Send | None, str] = (0, None, "")
        """Version, who brings it (None: the checkpoint of the start) and its digest."""
        self._others: dict[int, Any] = {}
        """Places and actors that took other weights than the rest under the same version."""
        self._probing: dict[int, tuple[Any, dict[int, list[float] | BaseException]]] = {}
        """Places whose generators were asked for log-probabilities, with their actors and what they said of each probe so far."""
        self.nats: dict[int, float] = {}
        """How far what they said last was off, by place."""
        self._sending = threading.Lock()
        self.taking: set[int] = set()
        """Places of a transfer under way that get work meanwhile: what they answer counts once they are proved."""
        self.probe_nats: float | None = None
        """Largest mean difference of log-probabilities to the trainer's; None for what is usual at the engine's dtype."""
        self.dtype = ""
        self._syncing = self._catching_up = self._sleeps = False
        self._cause: BaseException | None = None
        """Why weights could not be brought."""
        self._hopeless: float | None = None

    def start(self, **arguments: Any) -> Any:
        """See `Fleet.start`."""
        with self._sending:
            self._wanted, self._cause, self._sleeps = (0, None, ""), None, False
            self._others.clear()
            self._probing.clear()
            return self._fleet.start(**arguments)

    def failure(self) -> BaseException | None:
        """Why no generator will get the weights that are wanted, unless they are sent again."""
        return None if self._hope() else self._cause

    def look(self) -> None:
        """Time passes, the lock is held: whoever lacks weights is brought them."""
        stale = self._stale()
        if stale and not self._syncing and not self._catching_up and not self._sleeps and self._cause is None:
            if self._wanted[1] is None:
                for place in stale:
                    self._prove(place)
            else:
                self._catching_up = True
                threading.Thread(target=self._catch_up, name="raylm-weights", daemon=True).start()
        self._look_for_hope(time.monotonic())

    def _hope(self) -> bool:
        able = (State.STARTING, State.HEALTHY, State.SUSPECT)
        return (
            self._syncing
            or self._catching_up
            or self._sleeps
            or bool(self._probing)
            or any(one.state in able for one in self._fleet.health)
        )

    def _look_for_hope(self, now: float) -> None:
        if self._hope() or self._cause:
            self._hopeless = None
            return
        self._hopeless = self._hopeless or now
        if now - self._hopeless > self._fleet.hang_s:
            self._cause = PlacementError(
                f"no generator holds version {self._wanted[0]} of the weights, and the trainer sent other ones under its name: "
                f"for {self._fleet.hang_s:g} s no transfer came",
                where="generators",
                next="send the weights again",
            )

    def sync(self, send: Send, version: int) -> None:
        """Let all that live take weights, see `Pool.sync`."""
        with self._sending:
            with self._lock:
                before, self._wanted = self._wanted, (version, send, "")
                self._syncing, self._cause, self._sleeps = True, None, False
                self._fleet.rest(False)
                self._others.clear()
                self._probing.clear()
                self.nats.clear()
                places = [place for place, one in enumerate(self._fleet.health) if one.lives]
                self.taking = set(self._fleet.healthy())
                for place in places:
                    self._fleet.health[place].on("outdated")
                actors = [self._fleet.actors[place] for place in places]
            broke_off = True
            try:
                sent = send(actors, version)
                broke_off = False
            finally:
                if broke_off:
                    self._put_back(places, actors, before)
            with self._lock:
                self._wanted = (version, send, sent.digest)
                self._probe(self._took(places, actors, sent), sent.probe)
                self._syncing = False
                self.taking.clear()
                until = time.monotonic() + PROBE_S
                while self._probing and (left := until - time.monotonic()) > 0:
                    self._lock.wait(min(left, 1.0))

    def sleep(self) -> None:
        """See `Pool.sleep`."""
        with self._sending:
            with self._lock:
                if self._wanted[1] is None:
                    raise PlacementError("the generators cannot sleep before weights were sent to them", where="generators")
                self._sleeps = True
                self._fleet.rest(True)
                self._probing.clear()
                places = [place for place, one in enumerate(self._fleet.health) if one.lives]
                for place in places:
                    self._fleet.health[place].on("outdated")
                    self._fleet.health[place].version = None
                actors = [self._fleet.actors[place] for place in places]
            asked = [actor.sleep.remote() for actor in actors]
            for place, reference in zip(places, asked, strict=True):
                try:
                    answer_of(reference, "sleep", self._fleet.hang_s)
                except GeneratorLost as lost:
                    with self._lock:
                        self._fleet.lose(place, lost)

    def wake(self) -> None:
        """See `Pool.wake`."""
        with self._lock:
            self._sleeps = False
            self._fleet.rest(False)

    def lost(self, place: int) -> None:
        """The generator of a place is lost."""
        self._probing.pop(place, None)
        self.taking.discard(place)

    def _put_back(self, places: list[int], actors: list[Any], before: tuple[int, Send | None, str]) -> None:
        """A transfer broke off: those that it did not touch go on with what they hold."""
        held = {place: _version(actor, self._fleet.ping_s) for place, actor in zip(places, actors, strict=True)}
        with self._lock:
            self._syncing, self._wanted = False, before
            self.taking.clear()
            for place, actor in zip(places, actors, strict=True):
                if self._fleet.actors[place] is actor and held[place] != self._wanted[0]:
                    self._fleet.health[place].version = None
            for place in self._stale():
                self._prove(place)
            self._cause = PlacementError(
                "the generators hold no whole set of weights: the last transfer broke off",
                where="generators",
                next="send the weights again, or start the generators afresh",
            )

    def _stale(self) -> list[int]:
        """Places that wait for weights, or for a proof of them."""
        fleet = self._fleet
        stale = [place for place, one in enumerate(fleet.health) if one.state is State.STALE]
        busy = {**self._others, **{place: actor for place, (actor, _) in self._probing.items()}}
        return [place for place in stale if busy.get(place) is not fleet.actors[place]]

    def _catch_up(self) -> None:
        """Bring the newest weights to those that lack them. In a thread of its own: the sender may be busy."""
        try:
            with self._sending:
                with self._lock:
                    version, send, _ = self._wanted
                    places = self._stale()
                    actors = [self._fleet.actors[place] for place in places]
                if not places or send is None:
                    return
                try:
                    sent = send(actors, version)
                except RaylmError as cause:
                    with self._lock:
                        self._cause = cause
                    return
                with self._lock:
                    self._probe(self._took(places, actors, sent), sent.probe)
        finally:
            with self._lock:
                self._catching_up = False
                self._cause = self._cause or sys.exception()
                self._lock.notify_all()

    def _took(self, places: list[int], actors: list[Any], sent: Sent) -> list[int]:
        """What became of a transfer; places that hold what is wanted."""
        took = []
        for at, (place, actor) in enumerate(zip(places, actors, strict=True)):
            if self._fleet.actors[place] is not actor:
                continue
            if at in sent.lost:
                self._fleet.lose(place, GeneratorLost(sent.lost[at], where="weight transfer"))
            elif sent.digest != self._wanted[2]:
                # the trainer has gone on since: the next transfer is theirs too
                self._others[place] = actor
            else:
                self._fleet.health[place].version = self._wanted[0]
                took.append(place)
        return took

    def _probe(self, places: list[int], probes: tuple[Probe, ...]) -> None:
        """Ask those that took the weights what they say of the probes; without probes what they took is all there is to know."""
        for place in places:
            if not probes:
                self._prove(place)
                continue
            self._probing[place] = (self._fleet.actors[place], found := {})
            for at, one in enumerate(probes):
                then = partial(self._said, place, found, probes, at)
                self._fleet.ask(place, "logprobs", then, one.tokens, self._fleet.hang_s)

    def _said(
        self,
        place: int,
        found: dict[int, list[float] | BaseException],
        probes: tuple[Probe, ...],
        at: int,
        said: Any,
        cause: BaseException | None,
    ) -> None:
        """An answer to one probe. With the last one it is known whether the generator computes with these weights."""
        if self._probing.get(place, (None, None))[1] is not found:
            return  # of an earlier transfer
        found[at] = cause or said
        if len(found) < len(probes):
            return
        del self._probing[place]
        failed = next((each for each in found.values() if isinstance(each, BaseException)), None)
        said = [[] if isinstance(each := found[at], BaseException) else each for at in range(len(probes))]
        nats, most = apart(said, probes), allowed(self.dtype, self.probe_nats)
        self.nats[place] = nats
        if nats <= most:
            self._prove(place)
        else:
            self._fleet.health[place].refused += 1
            self._fleet.counts["generators_refused"] += 1
            why = f"generator {place} took version {self._wanted[0]} of the weights and "
            if failed:
                why += f"could not say what it computes with them: {failed}"
            else:
                why += (
                    f"does not compute with it: its log-probabilities of {len(probes)} sequences differ from the trainer's by "
                    f"{nats:.3g} on average, {most:g} are allowed (generator.probe_nats)"
                )
            self._fleet.lose(place, GeneratorLost(why, where="generators"))
        self._lock.notify_all()

    def _prove(self, place: int) -> None:
        """Let one work that holds what is wanted."""
        one = self._fleet.health[place]
        if one.state is State.STALE and one.version == self._wanted[0]:
            one.proved(self._wanted[0])
            self._on_proved(place)


def _version(actor: Any, timeout_s: float) -> int | None:
    try:
        return answer_of(actor.version.remote(), "version", timeout_s)
    except GeneratorLost:
        return None
