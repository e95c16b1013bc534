"""Seconds of each part of an engine's start: facts of the endpoint, and gauges on its replicas' /metrics."""

from __future__ import annotations

import time


class Phases:
    """Parts that follow on each other.

    Args:
        began: time.time() when the process was asked for; until now is the part `process`.
    """

    def __init__(self, began: float) -> None:
        self.seconds = {"process": round(max(0.0, time.time() - began), 3)}
        self._last = time.monotonic()

    def end(self, name: str) -> None:
        """The part `name` has ended."""
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 3), now

    def show(self) -> None:
        """Put them beside vLLM's own numbers, as `raylm:start_seconds{phase="..."}`."""
        from prometheus_client import Gauge

        gauge = Gauge("raylm:start_seconds", "Seconds of each part of this engine's start", ["phase"])
        for name, seconds in self.seconds.items():
            gauge.labels(name).set(seconds)
