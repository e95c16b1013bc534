"""Goodput: lost steps and lost seconds of restarts."""

from __future__ import annotations

import time
from collections.abc import Callable


class Goodput:
    """Share of the run's wall time that went into steps which count, on the driver's clock.

    Args:
        known: steps that an earlier driver had logged; those after the checkpoint are lost, their seconds are not known.
    """

    def __init__(self, known: list[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._last = clock()
        self._spent = [(step, 0.0) for step in known]
        self._groups = 0
        self._lost_steps, self._lost_s = 0, 0.0

    def row(self, step: int) -> None:
        """The row of `step` arrived: the time since the one before was its."""
        now = self._clock()
        self._spent.append((step, now - self._last))
        self._last = now

    def rewind(self, step: int, rollback: bool = False) -> None:
        """Later steps than `step` are done again: by a new group of ranks, or after a rollback by the same."""
        now = self._clock()
        lost = [seconds for at, seconds in self._spent if at >= step]
        self._spent = [(at, seconds) for at, seconds in self._spent if at < step]
        self._lost_steps += len(lost)
        # the first group's start is no loss
        self._lost_s += sum(lost) + (now - self._last if self._groups else 0.0)
        self._groups += not rollback
        self._last = now

    def metrics(self) -> dict[str, float]:
        """lost_steps, lost_s (work done again and waits for new groups), restarts, goodput (0 to 1)."""
        wall = max(self._clock() - self._started, 1e-9)
        return {
            "lost_steps": self._lost_steps,
            "lost_s": round(self._lost_s, 3),
            "restarts": max(0, self._groups - 1),
            "goodput": round(sum(seconds for _, seconds in self._spent) / wall, 4),
        }
