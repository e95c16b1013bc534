"""Takes tasks from a driver and rows and results from ranks, leaves each with whom it is for."""

from __future__ import annotations

import threading
from typing import Any

from raylm.core.errors import PlacementError

START_S = 180.0
MOST_DEATHS = 3


class Mailbox:
    """Hands tasks to ranks and their rows and results to the driver. A Ray actor; its methods wait, they never spin."""

    POLL_S = 1.0

    def __init__(self, world: int) -> None:
        self._world = world
        self._changed = threading.Condition()
        self._tasks: dict[int, Any] = {}
        self._outcomes: dict[int, tuple[str, Any]] = {}
        self._rows: list[tuple[str, Any]] = []
        self._pids: dict[int, int] = {}
        self._deaths = 0
        self._closed = False

    def join(self, rank: int, pid: int) -> None:
        with self._changed:
            if rank == 0 and self._pids:
                self._count_death()
            self._pids[rank] = pid
            self._changed.notify_all()

    def _count_death(self) -> None:
        """A group that dies again and again without one row in between will not get further by another try."""
        for task in self._tasks.keys() - self._outcomes.keys():
            self._deaths += 1
            self._rows.append(("note", "a worker died; a new group of ranks goes on from the last step checkpoint"))
            if self._deaths > MOST_DEATHS:
                error = PlacementError(
                    f"the ranks died {self._deaths} times without a step in between",
                    next="were they out of memory? lower micro_batch, or give them more",
                )
                self._outcomes.setdefault(task, ("raised", error))

    def members(self) -> list[int]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._pids) == self._world, timeout=START_S)
            return [self._pids[rank] for rank in sorted(self._pids)]

    def post(self, task: int, payload: list[Any]) -> None:
        with self._changed:
            self._tasks, self._rows, self._deaths = {task: payload}, [], 0
            self._changed.notify_all()

    def next(self, after: int) -> tuple[int, Any] | None:
        """The open task younger than `after`; None when the group is to end; waits for one of the two."""

        def open_task() -> int | None:
            return next((task for task in self._tasks if task > after and task not in self._outcomes), None)

        with self._changed:
            self._changed.wait_for(lambda: self._closed or open_task() is not None)
            task = open_task()
            return None if self._closed or task is None else (task, self._tasks[task])

    def log(self, task: int, row: tuple[str, Any]) -> None:
        with self._changed:
            if task in self._tasks:
                self._rows.append(row)
                self._deaths = 0
                self._changed.notify_all()

    def finish(self, task: int, outcome: tuple[str, Any]) -> None:
        with self._changed:
            # the first word counts: when one rank fails, what the others say is only a consequence
            self._outcomes.setdefault(task, outcome)
            self._changed.notify_all()

    def poll(self, task: int) -> tuple[list[tuple[str, Any]], tuple[str, Any] | None]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._rows) or task in self._outcomes, timeout=self.POLL_S)
            rows, self._rows = self._rows, []
            return rows, self._outcomes.get(task)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
