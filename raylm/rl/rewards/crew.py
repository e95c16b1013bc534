"""Actors of one kind that tasks are handed to: one that is lost is made again, and what it owed is asked of the fresh one."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from raylm.core.errors import RaylmError, StageError
from raylm.inference.calls import how_it_ended
from raylm.rl.types import Unscored

MOST_ASKED = 3
"""Times that one task is asked of actors that are lost over it."""
PING_EVERY_S = 1.0
"""Seconds between two questions to one actor whether it lives."""

STOOD_STILL = 0.25
"""Part of the seconds of silence: a longer gap between two looks is none of the actors'."""


class Ping(NamedTuple):
    """An actor was asked whether it lives."""

    place: int
    actor: Any
    since: float


class Task(NamedTuple):
    """What one call of an actor's `score` is about."""

    key: Hashable
    arguments: tuple[Any, ...]
    asked: int = 0


class Crew:
    """Actors with the methods `score(*arguments)` and `check()`.

    Args:
        make: starts the actor of one place.
        depth: tasks that each is asked at the same time.
    """

    def __init__(self, make: Callable[[int], Any], count: int, depth: int) -> None:
        self._make, self._depth = make, depth
        self._actors = [make(place) for place in range(count)]
        self._tasks, self._running = deque[Task](), dict[Any, tuple[int, Any, Task]]()
        self._pings: dict[Any, Ping] = {}
        self._heard: dict[Any, float] = {}
        """When an actor said something last; one that is starting has said nothing yet."""
        self._looked = 0.0
        self._silent_s, self._task_s, self._start_s = 60.0, math.inf, 0.0
        self._until: dict[Any, float] = {}
        self._started: set[Any] = set()

    def begin(self, silent_s: float, start_s: float, task_s: float = math.inf) -> None:
        """A new stage: nothing of an earlier one is waited for. An actor that is still busy with that is made again: it could not
        say that it lives.

        Args:
            silent_s: seconds in which an actor that has work must say that it lives, after which it is made again.
            start_s: seconds in which a fresh one must say so first, where these are more; it may wait for its place. Further
                seconds for its first task, for it may have a model to load.
            task_s: seconds for one task, after which its actor is made again.
        """
        import ray

        busy = ray.wait([*self._running], num_returns=len(self._running), timeout=0)[1] if self._running else []
        for place in {self._running[asked][0] for asked in busy}:
            self._replace(place)
        self._tasks.clear()
        self._running.clear()
        self._pings.clear()
        self._silent_s, self._task_s, self._start_s = silent_s, task_s, start_s
        self._until.clear()

    @property
    def references(self) -> list[Any]:
        """What is waited for."""
        return [*self._running, *self._pings]

    def add(self, task: Task) -> None:
        """Ask this when there is room."""
        self._tasks.append(task)
        self.hand_out()

    def drop(self, key: Hashable) -> None:
        """Do not ask this any more; an answer that is under way will be passed over by who asked."""
        self._tasks = deque(task for task in self._tasks if task.key != key)

    def drop_waiting(self) -> list[Hashable]:
        """Do not ask what was not asked yet; the keys of that."""
        keys = [task.key for task in self._tasks]
        self._tasks.clear()
        return keys

    def poll(self, timeout_s: float) -> list[tuple[Task, Any]]:
        """Tasks and their answers, or an Unscored where actors were lost over them again and again. `hand_out` is for who
        asked, once it knows what to do about these.

        Raises:
            RaylmError: what an actor raised.
        """
        import ray

        self.hand_out()
        waited = self.references
        if not waited:
            return []
        done, _ = ray.wait(waited, num_returns=1, timeout=timeout_s)
        more, _ = ray.wait(waited, num_returns=len(waited), timeout=0)
        found = []
        for reference in dict.fromkeys([*done, *more]):
            if reference in self._pings:
                self._pinged(reference)
            elif reference in self._running:
                del self._until[reference]
                found += self._answer(reference, *self._running.pop(reference))
        return found + self._check_silence()

    def close(self) -> None:
        """End all of them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def hand_out(self) -> None:
        """Ask what waits, where there is room."""
        busy = Counter(dict.fromkeys(range(len(self._actors)), 0))
        busy.update(place for place, _, _ in self._running.values())
        while self._tasks:
            place = min(busy, key=busy.__getitem__)
            if busy[place] >= self._depth:
                return
            task = self._tasks.popleft()
            busy[place] += 1
            actor = self._actors[place]
            asked = actor.score.remote(*task.arguments)
            self._running[asked] = (place, actor, task._replace(asked=task.asked + 1))
            self._until[asked] = time.monotonic() + busy[place] * self._task_s + self._start_s * (actor not in self._started)

    def _answer(self, reference: Any, place: int, actor: Any, task: Task) -> list[tuple[Task, Any]]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(reference)
            self._started.add(actor)
            self._heard[actor] = time.monotonic()
            return [(task, answer)]
        except RayTaskError as cause:
            inner = getattr(cause, "cause", cause)
            if isinstance(inner, RaylmError):
                raise inner from None
            raise StageError(f"a reward's actor failed: {str(inner).strip().splitlines()[-1]}", where="rewards") from None
        except RayError as cause:
            return self._lost(place, actor, [task], Unscored("died", f"the rewards' actor was lost: {how_it_ended(cause)}"))

    def _lost(self, place: int, actor: Any, tasks: list[Task], why: Unscored) -> list[tuple[Task, Any]]:
        """Ask these of a fresh actor, unless that was done often enough."""
        if actor is self._actors[place]:
            self._replace(place)
        self._tasks.extendleft(task for task in reversed(tasks) if task.asked < MOST_ASKED)
        return [(task, why) for task in tasks if task.asked >= MOST_ASKED]

    def _replace(self, place: int) -> None:
        import ray

        ray.kill(self._actors[place])
        self._heard.pop(self._actors[place], None)
        self._actors[place] = self._make(place)

    def _check_silence(self) -> list[tuple[Task, Any]]:
        """An actor whose task takes too long is lost, and one that does not say that it lives: its machine may be gone."""
        found, now = [], time.monotonic()
        if self._looked and (held_up := now - self._looked - PING_EVERY_S) > STOOD_STILL * self._silent_s:
            # nobody looked for so long that this process itself may have stood still: no answer could come meanwhile
            self._pings = {reference: ping._replace(since=ping.since + held_up) for reference, ping in self._pings.items()}
            self._until = {reference: until + held_up for reference, until in self._until.items()}
        self._looked = now
        for place in {self._running[asked][0] for asked, until in self._until.items() if now >= until}:
            found += self._give_up(place, Unscored("timed_out", f"a reward did not answer within {self._task_s:g} s"))
        asked = {ping.actor: ping.since for ping in self._pings.values()}
        for place in {place for place, _, _ in self._running.values()}:
            actor = self._actors[place]
            heard = self._heard.get(actor)
            if actor not in asked:
                if heard is None or now - heard >= PING_EVERY_S:
                    self._pings[actor.check.remote()] = Ping(place, actor, now)
                continue
            most = self._silent_s if heard is not None else max(self._silent_s, self._start_s)
            if now - asked[actor] >= most:
                found += self._give_up(place, Unscored("timed_out", f"the rewards' actor gave no sign of life for {most:g} s"))
        return found

    def _give_up(self, place: int, why: Unscored) -> list[tuple[Task, Any]]:
        """The actor of this place stands still."""
        owed = {asked: task for asked, (at, _, task) in self._running.items() if at == place}
        for asked in owed:
            del self._running[asked], self._until[asked]
        return self._lost(place, self._actors[place], list(owed.values()), why)

    def _pinged(self, reference: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        ping = self._pings.pop(reference)
        try:
            ray.get(reference)
            self._heard[ping.actor] = time.monotonic()
        except RayTaskError as cause:
            raise getattr(cause, "cause", cause) from None
        except RayError:
            return  # what it was asked comes back as lost
