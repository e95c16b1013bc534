"""Generators' processes: one thread looks after them, so that one that is lost is replaced while the others go on.

calls' answers --> events --> keeper thread --> what waits for the answer
                                +--> pings, deadlines, a fresh process in place of a lost one
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from raylm.core.errors import PlacementError, RaylmError
from raylm.inference.calls import GeneratorLost, answer_of, in_words
from raylm.inference.generator import OtherNetwork
from raylm.inference.health import Health, State

TICK_S = 0.1
"""Seconds between two looks at deadlines; answers are seen at once."""
PING_EVERY_S = 1.0
SAY_EVERY_S = 60.0
"""Seconds between two lines that say what is waited for."""
LATE = 0.25
"""Part of `ping_s` after which a generator that does not answer gets no new work."""

Then = Callable[[Any, BaseException | None], None]
"""What becomes of an answer, or of what was raised instead; called by the keeper, which holds the lock."""


class Fleet:
    """Actors by place, and what is known of each.

    Args:
        make: starts the actor of one place.
        on_loss: called with the place of a generator that was lost, and whether what it was asked may be why.
        on_look: called as time passes. Both are called with the lock held.
    """

    def __init__(
        self, make: Callable[[int], Any], count: int, on_loss: Callable[[int, bool], None], on_look: Callable[[], None]
    ) -> None:
        self.lock = threading.Condition()
        self.hang_s, self.ping_s, self.start_s, self.max_restarts = 600.0, 60.0, 3600.0, 3
        self._make, self._on_loss, self._on_look = make, on_loss, on_look
        self.actors: list[Any] = [make(place) for place in range(count)]
        self.health = [Health() for _ in range(count)]
        self.counts = Counter[str]()
        """Generators that were lost, and those of them whose log-probabilities were not the trainer's."""
        self._built: set[int] = set()
        """Places whose process has an engine."""
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._pings: dict[int, tuple[bool, float]] = {}
        """Whether an answer is owed, and since when; when the last one came otherwise."""
        self._begun: dict[int, tuple[float, float]] = {}
        """Of those that the keeper starts: since when, and when that was said last."""
        self._start: dict[str, Any] = {}
        self._keeper: threading.Thread | None = None
        self._rests = False
        self._looked, self._closed = time.monotonic(), False

    def healthy(self) -> list[int]:
        """Places that get work."""
        return [place for place, one in enumerate(self.health) if one.state is State.HEALTHY]

    def proves(self, place: int) -> bool:
        """Whether what a generator answers now was drawn by weights that it was proved to hold."""
        return self.health[place].state in (State.HEALTHY, State.SUSPECT)

    def ask(self, place: int, method: str, then: Then, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the generator of a place; its reference. `then` hears nothing when that generator is lost."""
        actor = self.actors[place]

        def answered(future: Any) -> None:
            self._events.put(partial(self._answer, place, actor, method, then, future))

        reference = getattr(actor, method).remote(*args, **kwargs)
        reference.future().add_done_callback(answered)
        return reference

    def failure(self) -> BaseException | None:
        """Why no generator will ever work again; None while one may."""
        if all(one.state is State.DEAD for one in self.health) and not self._rests:
            place, worst = max(enumerate(self.health), key=lambda item: item[1].losses)
            return PlacementError(
                f"generator {place} was lost {worst.losses} times without a batch of completions in between: {worst.why}",
                where="generators",
                next="was it out of memory? lower max_tokens or prompts_per_iteration; was it slow? raise generator.hang_s",
            )
        if self._keeper is not None and not self._keeper.is_alive() and not self._closed:
            return PlacementError("the thread that looks after the generators has ended", where="generators")
        return None

    # starts

    def start(self, **arguments: Any) -> Any:
        """Let all hold a checkpoint as version 0, see `Pool.start`. Returns what the engines compute in."""
        with self.lock:
            self._start, self._rests = arguments, False
            self._begun.clear()
            for place, one in enumerate(self.health):
                if one.state is State.DEAD:
                    self._renew(place)
                self.health[place] = Health(refused=one.refused)
            held = set(self._built)
        # one that stands still would be waited for as long as a start may take
        pings = {place: self.actors[place].version.remote() for place in held}
        mute = {place for place, reference in pings.items() if not _answers(reference, self.ping_s)}
        dtype, again = self._start_all(range(len(self.actors)), mute, held)
        if again:
            dtype, again = self._start_all(again, set(again), set())
        with self.lock:
            for one in self.health:
                one.on("started")
                one.version = 0
                one.proved(0)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._run, name="raylm-generators", daemon=True)
                self._keeper.start()
        return dtype

    def _start_all(self, places: Any, renewed: set[int], held: set[int]) -> tuple[Any, list[int]]:
        """Start those at `places`, the renewed ones in fresh processes; what they compute in, and which need a fresh one."""
        for place in renewed:
            self._renew(place)
        started = {place: self.actors[place].start.remote(**self._start) for place in places}
        dtype, again = None, []
        for place, reference in started.items():
            try:
                dtype = _waited(place, reference, self.hang_s if place in held - renewed else self.start_s)
                self._built.add(place)
            except (OtherNetwork, GeneratorLost):
                # one that was held from an earlier stage may have died since
                if not held and place in renewed:
                    raise
                again.append(place)
        return dtype, again

    def _renew(self, place: int) -> None:
        import ray

        ray.kill(self.actors[place])
        self._built.discard(place)
        self._pings.pop(place, None)
        self.actors[place] = self._make(place)

    def close(self) -> None:
        """End all of them."""
        import ray

        with self.lock:
            self._closed = True
            for actor in self.actors:
                ray.kill(actor)
        if self._keeper:
            self._keeper.join(timeout=10)

    # the keeper's thread

    def _run(self) -> None:
        import ray

        while not self._closed:
            try:
                event = self._events.get(timeout=TICK_S)
            except Empty:
                event = None
            with self.lock:
                # any call after Ray's end would start another one
                if self._closed or not ray.is_initialized():
                    return
                if event:
                    event()
                # what seems late may lie among the events
                if self._events.empty() and time.monotonic() - self._looked >= TICK_S:
                    self._look()

    def _answer(self, place: int, actor: Any, method: str, then: Then, future: Any) -> None:
        if self.actors[place] is not actor:
            return  # of one that has been replaced
        cause = future.exception() and in_words(future.exception(), method)
        if isinstance(cause, GeneratorLost):
            self.lose(place, cause, by_request=True)
        else:
            then(None if cause else future.result(), cause)

    def _look(self) -> None:
        """What is late."""
        now = time.monotonic()
        if now - self._looked > PING_EVERY_S:
            # this process itself stood still
            held_up = now - self._looked
            self._pings = {place: (owed, since + held_up) for place, (owed, since) in self._pings.items()}
            self._begun = {place: (since + held_up, said) for place, (since, said) in self._begun.items()}
        self._looked = now
        for place, one in enumerate(self.health):
            if one.lives:
                self._ping(place, now)
            elif place in self._begun:
                self._look_at_start(place, now)
        self._on_look()

    def _ping(self, place: int, now: float) -> None:
        owed, since = self._pings.get(place, (False, 0.0))
        if not owed:
            if now - since >= min(PING_EVERY_S, LATE * self.ping_s):
                self._pings[place] = (True, now)
                self.ask(place, "version", partial(self._heard, place))
        elif now - since > self.ping_s:
            lost = f"the generator at place {place} did not answer for {self.ping_s:g} s whether it lives"
            self.lose(place, GeneratorLost(lost, where="generators", next="raise ping_s in the stage's `generator` table"), True)
        elif now - since > LATE * self.ping_s and self.health[place].state is State.HEALTHY:
            self.health[place].on("late")

    def _heard(self, place: int, version: int | None, cause: BaseException | None) -> None:
        self._pings[place] = (False, time.monotonic())
        if self.health[place].state is State.SUSPECT:
            self.health[place].on("heard")

    def _look_at_start(self, place: int, now: float) -> None:
        since, said = self._begun[place]
        if now - since > self.start_s:
            self.lose(place, GeneratorLost(f"generator {place} did not start within {self.start_s:g} s (generator.start_s)"))
        elif now - said > SAY_EVERY_S:
            self._begun[place] = (since, now)
            _say(place, now - since, self.start_s)

    # losses

    def lose(self, place: int, lost: GeneratorLost, by_request: bool = False) -> None:
        """The generator of a place is gone: a fresh one comes in its place.

        Args:
            by_request: it was lost while it worked, perhaps on account of what it was asked.
        """
        one = self.health[place]
        if one.state is State.DEAD or self._closed:
            return
        one.lost(lost.what)
        self.counts["generators_lost"] += 1
        self._begun.pop(place, None)
        self._on_loss(place, by_request)
        if one.losses > self.max_restarts:
            import ray

            ray.kill(self.actors[place])
            print(f"  {lost.what}; generator {place} was lost {one.losses} times and is given up", file=sys.stderr)
            return
        print(f"  {lost.what}; a fresh one takes the newest weights and goes on ({one.losses})", file=sys.stderr)
        if not self._rests:
            self._replace(place)

    def rest(self, rests: bool) -> None:
        """Whether a lost one is replaced at once, or, while its GPU's memory is lent to others, later."""
        self._rests = rests
        for place, one in enumerate(self.health):
            if not rests and one.state is State.DEAD and one.losses <= self.max_restarts:
                self._replace(place)

    def _replace(self, place: int) -> None:
        """A fresh process in place of a lost one."""
        one = self.health[place]
        try:
            self._renew(place)
        except RaylmError as cause:
            self.lose(place, GeneratorLost(cause.what))
            return
        one.on("renewed")
        now = time.monotonic()
        self._begun[place] = (now, now)
        self.ask(place, "start", partial(self._started, place), **self._start)

    def _started(self, place: int, dtype: Any, cause: BaseException | None) -> None:
        if cause:
            self.lose(place, GeneratorLost(f"a fresh generator did not start: {cause}", where="generator.start"))
            return
        self._begun.pop(place, None)
        self._built.add(place)
        self.health[place].on("started")
        self.health[place].version = 0


def _answers(reference: Any, timeout_s: float) -> bool:
    try:
        answer_of(reference, "version", timeout_s)
    except GeneratorLost:
        return False
    return True


def _waited(place: int, reference: Any, timeout_s: float) -> Any:
    """What a start answers; says every while what is waited for."""
    import ray

    began = time.monotonic()
    while (left := timeout_s - (time.monotonic() - began)) > 0 and not ray.wait([reference], timeout=min(left, SAY_EVERY_S))[0]:
        _say(place, time.monotonic() - began, timeout_s)
    return answer_of(reference, "start", 0.1)


def _say(place: int, seconds: float, most: float) -> None:
    print(
        f"  waiting for generator {place} to start: a place in the cluster, weights, compilation; {seconds:.0f} of at most "
        f"{most:g} s (generator.start_s)",
        file=sys.stderr,
    )
