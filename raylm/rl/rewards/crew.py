"""Actors of one kind that tasks are handed to: one that is lost is made again, and what it owed is asked of the fresh one."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from raylm.core.errors import RaylmError, StageError
from raylm.inference.calls import how_it_ended
from raylm.rl.types import Unscored

MOST_ASKED = 3
"""Times that one task is asked of actors that are lost over it."""


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
        self._pings: dict[Any, int] = {}
        self._silent_s, self._heard = 60.0, time.monotonic()

    def begin(self, silent_s: float) -> None:
        """A new stage: nothing of an earlier one is waited for.

        Args:
            silent_s: seconds without an answer, after which each actor must say that it lives, in as many seconds again.
        """
        self._tasks.clear()
        self._running.clear()
        self._pings.clear()
        self._silent_s, self._heard = silent_s, time.monotonic()

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
        waited = [*self._running, *self._pings]
        if not waited:
            return []
        done, _ = ray.wait(waited, num_returns=1, timeout=timeout_s)
        more, _ = ray.wait(waited, num_returns=len(waited), timeout=0)
        found = []
        for reference in dict.fromkeys([*done, *more]):
            self._heard = time.monotonic()
            if reference in self._pings:
                self._pinged(reference)
            elif reference in self._running:
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
            if not self._running:
                self._heard = time.monotonic()
            actor = self._actors[place]
            self._running[actor.score.remote(*task.arguments)] = (place, actor, task._replace(asked=task.asked + 1))

    def _answer(self, reference: Any, place: int, actor: Any, task: Task) -> list[tuple[Task, Any]]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return [(task, ray.get(reference))]
        except RayTaskError as cause:
            inner = getattr(cause, "cause", cause)
            if isinstance(inner, RaylmError):
                raise inner from None
            raise StageError(f"a reward's actor failed: {str(inner).strip().splitlines()[-1]}", where="rewards") from None
        except RayError as cause:
            return self._lost(place, actor, [task], Unscored("died", f"the rewards' actor was lost: {how_it_ended(cause)}"))

    def _lost(self, place: int, actor: Any, tasks: list[Task], why: Unscored) -> list[tuple[Task, Any]]:
        """Ask these of a fresh actor, unless that was done often enough."""
        import ray

        if actor is self._actors[place]:
            ray.kill(actor)
            self._actors[place] = self._make(place)
        self._tasks.extendleft(task for task in reversed(tasks) if task.asked < MOST_ASKED)
        return [(task, why) for task in tasks if task.asked >= MOST_ASKED]

    def _check_silence(self) -> list[tuple[Task, Any]]:
        """An actor that gives no answer and does not even say that it lives is lost: its machine may be gone."""
        if not self._running or time.monotonic() - self._heard < self._silent_s:
            return []
        self._heard, silent = time.monotonic(), set(self._pings.values())
        self._pings = {} if silent else {actor.check.remote(): place for place, actor in enumerate(self._actors)}
        found = []
        for place in silent:
            owed = {asked: task for asked, (at, _, task) in self._running.items() if at == place}
            for asked in owed:
                del self._running[asked]
            why = Unscored("timed_out", f"the rewards' actor gave no sign of life for {self._silent_s:g} s")
            found += self._lost(place, self._actors[place], list(owed.values()), why)
        return found

    def _pinged(self, reference: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        self._pings.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as cause:
            raise getattr(cause, "cause", cause) from None
        except RayError:
            return  # what it was asked comes back as lost
