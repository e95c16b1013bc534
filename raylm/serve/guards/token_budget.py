"""A budget of tokens for each key, by day, by month or for good; it outlives the process that counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from raylm.serve.envelope import Refusal
from raylm.serve.guards.guard import Guard, Visit


class TokenBudget(Guard):
    """Tokens of prompts and answers that a key may use, counted as requests end. Beyond it they are refused with 429 until the
    next period begins (UTC); what ran when the budget was used up is answered to its end."""

    kind: Literal["token_budget"] = "token_budget"
    tokens: int = Field(gt=0)
    """Tokens of one key in each period."""
    period: Literal["day", "month", "ever"] = "month"
    """When a key begins anew; `ever`: never."""
    _used: dict[str, int] = PrivateAttr(default_factory=dict)
    _since: str = PrivateAttr(default="")

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        self._begin()
        if self._used.get(visit.client, 0) < self.tokens:
            return None
        again = {"day": "tomorrow", "month": "next month", "ever": "never again"}[self.period]
        message = f"This key has used its {self.tokens} tokens; it is let in {again} (UTC)."
        return Refusal(429, message, "insufficient_quota", retry_after_s=self._left_s())

    def finish(self, visit: Visit, tokens: int, now_s: float) -> None:
        self._begin()
        if tokens:
            self._used[visit.client] = self._used.get(visit.client, 0) + tokens

    def headers(self, visit: Visit, now_s: float) -> dict[str, str]:
        self._begin()
        left = max(0, self.tokens - self._used.get(visit.client, 0))
        return {"x-ratelimit-limit-budget-tokens": str(self.tokens), "x-ratelimit-remaining-budget-tokens": str(left)}

    def state(self) -> dict[str, Any]:
        return {"since": self._since, "used": self._used}

    def restore(self, state: dict[str, Any]) -> None:
        self._since, self._used = str(state["since"]), {str(key): int(tokens) for key, tokens in state["used"].items()}

    def _begin(self) -> None:
        """Forget what was used in an earlier period."""
        now = _now()
        since = {"day": f"{now:%Y-%m-%d}", "month": f"{now:%Y-%m}", "ever": "ever"}[self.period]
        if since != self._since:
            self._since, self._used = since, {}

    def _left_s(self) -> int | None:
        """Seconds until the next period."""
        now = _now()
        if self.period == "ever":
            return None
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.period == "day":
            return int(86400 - (now - midnight).total_seconds()) + 1
        next_month = midnight.replace(year=now.year + now.month // 12, month=now.month % 12 + 1, day=1)
        return int((next_month - now).total_seconds()) + 1


def _now() -> datetime:
    return datetime.now(UTC)
