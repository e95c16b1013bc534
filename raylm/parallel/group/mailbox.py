"""The mailbox of a rank group: an actor that passes tasks to ranks, and rows, results and heartbeats to the driver."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from raylm.core.errors import PlacementError
from raylm.parallel.group.hang import IDLE, Beat

START_S = 180.0
MOST_DEATHS = 3
"""Groups that may die without a new step in between, within one task or over the tasks of one run."""


@dataclass
class Member:
    """One rank of the running group, and what was last heard of it (on the mailbox's clock)."""

    host: str
    node: str
    pid: int
    moves: tuple[int, int] = (0, 0)
    phase: str = IDLE
    step: int = 0
    heeds: bool = False
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)


class Mailbox:
    """Hands tasks to ranks and their rows and results to the driver. A Ray actor; its methods wait, they never spin."""

    POLL_S = 1.0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tasks: dict[int, Any] = {}
        self._outcomes: dict[int, tuple[str, Any]] = {}
        self._rows: list[tuple[str, Any]] = []
        self._group, self._world = "", 0
        self._members: dict[int, Member] = {}
        self._told: dict[int, dict[str, Any]] = {}
        self._order = (0, "")
        self._stopped = 0
        """The task that the driver had the ranks leave last: some leave it when the driver has posted the next one."""
        self._hang_reports = 0
        self._run: str | None = None
        self._deaths, self._furthest = 0, -1
        self._expected = self._told_why = False
        self._closed = False

    def join(self, rank: int, world: int, group: str, host: str, node: str, pid: int) -> None:
        """A rank of `group` is there; the first one of a new group tells that the group before is gone."""
        with self._changed:
            if group != self._group:
                if self._group and not self._expected:
                    self._count_death()
                elif self._group and world != self._world:
                    self._rows.append(("note", f"a new group of {world} ranks, {self._world} before"))
                self._group, self._world, self._members, self._expected = group, world, {}, False
                self._told, self._hang_reports, self._told_why = {}, 0, False
                if self._order[0] < 0:
                    self._order = (0, "")  # there was room for a larger group: this is it
            self._members[rank] = Member(host, node, pid)
            self._changed.notify_all()

    def _count_death(self) -> None:
        self._deaths += 1
        if self._open_tasks():
            self._rows.append(("note", "a worker died; a new group of ranks goes on from the last step checkpoint"))
        self._end_if_stuck()

    def _end_if_stuck(self) -> None:
        """A group that dies again and again without one new step in between will not get further by another try."""
        if self._deaths > MOST_DEATHS:
            for task in self._open_tasks():
                error = PlacementError(
                    f"the ranks died {self._deaths} times without a new step in between",
                    next="were they out of memory? lower micro_batch, or give them more",
                )
                self._outcomes.setdefault(task, ("raised", error))

    def _open_tasks(self) -> set[int]:
        return self._tasks.keys() - self._outcomes.keys()

    def members(self) -> list[int]:
        """Process ids by rank, once the whole group is there."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._members) and len(self._members) == self._world, timeout=START_S)
            return [self._members[rank].pid for rank in sorted(self._members)]

    def post(self, task: int, payload: list[Any], run: str | None = None, step: int = -1) -> None:
        """Open a task; what is left of the one before is let go.

        Args:
            run: deaths are counted over the tasks of one run, until it reaches a new `step`.
        """
        with self._changed:
            self._tasks, self._outcomes, self._rows, self._order = {task: payload}, {}, [], (0, "")
            if run is None or run != self._run:
                self._run, self._deaths, self._furthest = run, 0, -1
            self._reach(step)
            self._end_if_stuck()
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
        """Keep a row for the driver."""
        with self._changed:
            if task in self._tasks:
                self._rows.append(row)
                if row[0] == "row":
                    self._reach(row[1]["step"])
                self._changed.notify_all()

    def _reach(self, step: int) -> None:
        # steps that are only done again, and the word that they will be, bring the run no further
        if step > self._furthest:
            self._deaths, self._furthest = 0, step

    def finish(self, task: int, outcome: tuple[str, Any]) -> None:
        """Keep how a task ended."""
        with self._changed:
            # the first word counts: when one rank fails, what the others say is only a consequence
            if task in self._tasks:
                self._outcomes.setdefault(task, outcome)
            if outcome[0] == "raised":
                self._members = {}  # the rank that raised ends now, and the others with it
            self._changed.notify_all()

    def poll(self, task: int) -> tuple[list[tuple[str, Any]], tuple[str, Any] | None]:
        """Rows since the last poll, and the outcome once there is one; waits up to `POLL_S` for either."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._rows) or task in self._outcomes, timeout=self.POLL_S)
            rows, self._rows = self._rows, []
            return rows, self._outcomes.get(task)

    def let_go(self, task: int) -> None:
        """The driver has read how `task` ended: what the outcome refers to (all weights of a model) need not be kept."""
        with self._changed:
            if task in self._outcomes:
                self._tasks, self._outcomes[task] = {task: None}, ("read", None)

    def beat(
        self, rank: int, group: str, moves: tuple[int, int], phase: str, step: int, heeds: bool
    ) -> tuple[tuple[int, str], int]:
        """A sign of life: (marks, collectives) of a rank, its phase and step, and whether its task heeds orders to leave.

        Returns:
            The standing order to leave (task, reason), and how many hang_reports were asked for.
        """
        with self._changed:
            if group == self._group and (one := self._members.get(rank)):
                one.heard = time.monotonic()
                if one.moves != moves:
                    one.moved = one.heard
                one.moves, one.phase, one.step, one.heeds = moves, phase, step, heeds
            return self._order, self._hang_reports

    def beats(self) -> list[Beat]:
        """The last sign of life of every rank of the running group."""
        with self._changed:
            now = time.monotonic()
            return [
                Beat(rank, one.host, one.node, one.pid, one.moves[0], one.phase, one.step, now - one.heard, now - one.moved)
                for rank, one in sorted(self._members.items())
            ]

    def ask_to_leave(self, task: int, reason: str) -> bool:
        """Have all ranks write a step checkpoint and leave `task`; False where no rank heeds that."""
        with self._changed:
            self._order, self._stopped = (task, reason), task
            return any(one.heeds for one in self._members.values())

    def ask_for_room(self, reason: str) -> None:
        """Have all ranks leave the open task for a new group that goes on with it."""
        with self._changed:
            for task in self._open_tasks():
                self._order = (-task, reason)

    def leave(self, task: int, reason: str) -> bool:
        """A rank left `task` after its checkpoint. True: it waits for the next task. False: its process is to end."""
        with self._changed:
            if self._stopped == task:
                if task in self._tasks:
                    self._outcomes.setdefault(task, ("left", self._order[1]))
                self._changed.notify_all()
                return True
            if reason and not self._told_why:
                self._told_why = True
                self._rows.append(("note", f"{reason}: a step checkpoint was written, a new group of ranks goes on from there"))
            self._expected = True
            return False

    def hang_report(self, wait_s: float) -> dict[int, dict[str, Any]]:
        """What every rank of the group says it does now; those that said nothing within `wait_s` are left out."""
        with self._changed:
            self._hang_reports, self._told = self._hang_reports + 1, {}
            self._changed.wait_for(lambda: len(self._told) == len(self._members), timeout=wait_s)
            return dict(self._told)

    def tell(self, rank: int, group: str, told: dict[str, Any]) -> None:
        """The answer of one rank to `hang_report`."""
        with self._changed:
            if group == self._group:
                self._told[rank] = told
                self._changed.notify_all()

    def expect_new_group(self) -> None:
        """The group is ended on purpose: that is no death."""
        with self._changed:
            self._expected, self._members = True, {}

    def close(self) -> None:
        """No more tasks: the ranks return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
