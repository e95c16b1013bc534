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
        self._task_s, self._start_s = math.inf, 0.0
        self._until: dict[Any, float] = {}
        self._started: set[Any] = set()

    def begin(self, silent_s: float, task_s: float = math.inf, start_s: float = 0.0) -> None:
        """A new stage: nothing of an earlier one is waited for.

        Args:
            silent_s: seconds without an answer, after which each actor must say that it lives, in as many seconds again.
            task_s: seconds for one task, after which its actor is made again.
            start_s: further seconds for the first task of an actor, which may have a model to load.
        """
        self._tasks.clear()
        self._running.clear()
        self._pings.clear()
        self._silent_s, self._heard = silent_s, time.monotonic()
        self._task_s, self._start_s = task_s, start_s
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
            self._heard = time.monotonic()
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
            if not self._running:
                self._heard = time.monotonic()
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
        import ray

        if actor is self._actors[place]:
            ray.kill(actor)
            self._actors[place] = self._make(place)
        self._tasks.extendleft(task for task in reversed(tasks) if task.asked < MOST_ASKED)
        return [(task, why) for task in tasks if task.asked >= MOST_ASKED]

    def _check_silence(self) -> list[tuple[Task, Any]]:
        """An actor whose task takes too long is lost, and one that gives no answer and does not even say that it lives: its
        machine may be gone."""
        found, now = [], time.monotonic()
        for place in {self._running[asked][0] for asked, until in self._until.items() if now >= until}:
            found += self._give_up(place, Unscored("timed_out", f"a reward did not answer within {self._task_s:g} s"))
        if not self._running or now - self._heard < self._silent_s:
            return found
        self._heard, silent = now, set(self._pings.values())
        self._pings = {} if silent else {actor.check.remote(): place for place, actor in enumerate(self._actors)}
        for place in silent:
            why = Unscored("timed_out", f"the rewards' actor gave no sign of life for {self._silent_s:g} s")
            found += self._give_up(place, why)
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

        self._pings.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as cause:
            raise getattr(cause, "cause", cause) from None
        except RayError:
            return  # what it was asked comes back as lost
