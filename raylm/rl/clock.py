"""Where the seconds of an iteration go, by role."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

TRAINER = ("score_s", "update_s", "sync_s")
PHASES = ("generate_s", "reward_s", *TRAINER)


class Clock:
    """Seconds by phase, from one `stop` to the next."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._seconds = defaultdict[str, float](float)

    def start(self) -> None:
        """Count from now on."""
        self._since = time.perf_counter()
        self._seconds.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens in here under `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began

    def move(self, seconds: float, source: str, to: str) -> None:
        """So much of what was counted as `source` was `to`."""
        self._seconds[source] -= seconds
        self._seconds[to] += seconds

    def stop(self) -> dict[str, float]:
        """Seconds of each phase that the loop waited for, and `idle_s`, in which the trainer had nothing to do."""
        whole = time.perf_counter() - self._since
        found = {name: self._seconds[name] for name in PHASES}
        found["idle_s"] = max(whole - sum(found[name] for name in TRAINER), 0.0)
        return {name: round(max(seconds, 0.0), 3) for name, seconds in found.items()}
