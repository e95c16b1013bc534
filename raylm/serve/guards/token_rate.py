"""At most so many tokens a minute for each key."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from pydantic import Field, PrivateAttr

from raylm.serve.envelope import Refusal
from raylm.serve.guards.guard import Guard, Visit

WINDOW_S = 60.0


class TokenRate(Guard):
    """A sliding window per key over the tokens of prompts and answers, counted as requests end: those under way when the limit is
    reached are answered to their end. Until there is room again, requests are refused with 429."""

    kind: Literal["token_rate"] = "token_rate"
    per_minute: int = Field(gt=0)
    """Tokens of one key in any 60 seconds."""
    _ended: dict[str, deque[tuple[float, int]]] = PrivateAttr(default_factory=dict)

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        over = self._used(visit, now_s) - self.per_minute
        if over < 0:
            return None
        # as many of the oldest must leave the window as bring the sum below the limit
        for ended_s, tokens in self._ended[visit.client]:
            over -= tokens
            if over < 0:
                wait_s = max(1, math.ceil(ended_s + WINDOW_S - now_s))
                message = f"This key may use {self.per_minute} tokens a minute; there is room again in {wait_s} s."
                return Refusal(429, message, "rate_limit_exceeded", retry_after_s=wait_s)
        return None

    def finish(self, visit: Visit, tokens: int, now_s: float) -> None:
        if tokens:
            self._ended.setdefault(visit.client, deque()).append((now_s, tokens))

    def headers(self, visit: Visit, now_s: float) -> dict[str, str]:
        left = max(0, self.per_minute - self._used(visit, now_s))
        return {"x-ratelimit-limit-tokens": str(self.per_minute), "x-ratelimit-remaining-tokens": str(left)}

    def _used(self, visit: Visit, now_s: float) -> int:
        ended = self._ended.setdefault(visit.client, deque())
        while ended and ended[0][0] <= now_s - WINDOW_S:
            ended.popleft()
        return sum(tokens for _, tokens in ended)
