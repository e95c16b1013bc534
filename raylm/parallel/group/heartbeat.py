"""The heartbeat thread of a rank: reports to the mailbox what the rank does, and receives the driver's orders."""

from __future__ import annotations

import os
import threading
from typing import Any

from raylm.parallel.group.hang import IDLE, num_collectives, tell
from raylm.parallel.group.preemption import Notice

PULSE_S = 1.0
"""Seconds between two signs of life; a large group gives them less often, so that the mailbox has the same to do."""
RANKS_PER_PULSE_S = 64


class NoHeartbeat:
    """The heartbeat of a rank that nobody watches: a loop without Ray around it."""

    def mark(self, phase: str, step: int = 0) -> None:
        """Tells nobody."""

    def tick(self) -> None:
        """Tells nobody."""

    def asked(self) -> str:
        """Nobody asks it to leave."""
        return ""


class Heartbeat(NoHeartbeat):
    """Phase and step of this rank; `mark` costs no call, a thread sends what stands there.

    Args:
        group: the name that all ranks of this start share.
    """

    def __init__(self, rank: int, world: int, group: str, mailbox: Any, notice: Notice) -> None:
        self._rank, self._group, self._mailbox, self._notice = rank, group, mailbox, notice
        self._every_s = max(PULSE_S, world / RANKS_PER_PULSE_S)
        self._marked = (0, IDLE, 0)
        self._task, self._ordered = 0, ""
        self._hang_reports = 0
        self._now = threading.Event()
        threading.Thread(target=self._beat, name="raylm-heartbeat", daemon=True).start()

    def begin(self, task: int) -> None:
        """This rank takes up `task`; what was ordered for another one is forgotten."""
        self._task, self._ordered = task, ""
        self.mark("start")
        self._now.set()

    def mark(self, phase: str, step: int = 0) -> None:
        """This rank begins `phase` of `step` now."""
        self._marked = (self._marked[0] + 1, phase, step)
        if phase == IDLE:
            self._notice.busy = False

    def tick(self) -> None:
        """This rank gets on in its phase."""
        self.mark(*self._marked[1:])

    def asked(self) -> str:
        """Why this rank should leave, or an empty string; who asks is taken to heed the answer."""
        if not self._notice.busy:
            # the driver must know at once that this task heeds: it does not wait for one that does not
            self._notice.busy = True
            self._now.set()
        return self._notice.reason or self._ordered

    def _beat(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        while True:
            self._now.wait(self._every_s)
            self._now.clear()
            self._notice.look()
            marks, phase, step = self._marked
            moves = (marks, num_collectives())
            try:
                order, hang_reports = ray.get(
                    self._mailbox.beat.remote(self._rank, self._group, moves, phase, step, self._notice.busy), timeout=60.0
                )
            except GetTimeoutError:
                continue
            except RayError:
                os._exit(1)  # the driver is gone, and with it who would take what this rank finds
            if abs(order[0]) == self._task:
                self._ordered = order[1]
            if hang_reports > self._hang_reports:
                self._hang_reports = hang_reports
                self._mailbox.tell.remote(self._rank, self._group, tell())
