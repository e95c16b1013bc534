"""At most so many requests a minute from each key."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from pydantic import Field, PrivateAttr, field_validator

from raylm.core.config import did_you_mean
from raylm.serve.auth import KEYED, MODEL
from raylm.serve.envelope import Refusal
from raylm.serve.guards.guard import Guard, Visit

WINDOW_S = 60.0


class RequestRate(Guard):
    """A sliding window per key. What is above the limit is refused with 429 and the seconds until there is room again."""

    kind: Literal["request_rate"] = "request_rate"
    per_minute: int = Field(gt=0)
    """Requests of one key in any 60 seconds."""
    routes: list[str] = []
    """Routes that are counted, for example /v1/chat/completions; all when empty."""
    _admitted: dict[str, deque[float]] = PrivateAttr(default_factory=dict)

    @field_validator("routes")
    @classmethod
    def _are_routes(cls, routes: list[str]) -> list[str]:
        for route in routes:
            if route not in KEYED and not route.startswith(MODEL):
                raise ValueError(f"no route is called {route!r}.{did_you_mean(route, KEYED)}")
        return routes

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        if self.routes and visit.path not in self.routes:
            return None
        times = self._admitted.setdefault(visit.client, deque())
        while times and times[0] <= now_s - WINDOW_S:
            times.popleft()
        if len(times) < self.per_minute:
            times.append(now_s)
            return None
        wait_s = max(1, math.ceil(times[0] + WINDOW_S - now_s))
        message = f"This key may send {self.per_minute} requests a minute; the next in {wait_s} s."
        return Refusal(429, message, "rate_limit_exceeded", retry_after_s=wait_s)

    def headers(self, visit: Visit, now_s: float) -> dict[str, str]:
        left = max(0, self.per_minute - len(self._admitted.get(visit.client, ())))
        return {"x-ratelimit-limit-requests": str(self.per_minute), "x-ratelimit-remaining-requests": str(left)}
