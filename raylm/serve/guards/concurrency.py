"""At most so many requests of each key at a time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PrivateAttr

from raylm.serve.envelope import Refusal
from raylm.serve.guards.guard import Guard, Visit


class Concurrency(Guard):
    """Requests of one key that are under way at once, streams until their last token. More are refused with 429."""

    kind: Literal["concurrency"] = "concurrency"
    most: int = Field(gt=0)
    """Requests of one key at a time."""
    longest_s: float = Field(default=3600.0, gt=0)
    """Seconds after which a request is taken to have ended, where the replica that had it did not live to say so."""
    _running: dict[str, dict[str, float]] = PrivateAttr(default_factory=dict)

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        running = self._running.setdefault(visit.client, {})
        for number in [number for number, since in running.items() if now_s - since > self.longest_s]:
            del running[number]
        if len(running) < self.most:
            running[visit.number] = now_s
            return None
        message = f"This key has {self.most} requests under way, the most that it may have."
        return Refusal(429, message, "too_many_requests", retry_after_s=1)

    def finish(self, visit: Visit, tokens: int, now_s: float) -> None:
        self._running.get(visit.client, {}).pop(visit.number, None)
