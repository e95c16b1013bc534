"""What every guard has, and the one process that asks the guards of an endpoint in order.

replica 1 --.
replica 2 ---+--> Guards (one process): first card -> second card -> ... -> admitted, or the first refusal
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from raylm.core.config import Config, card_kind, resolve
from raylm.serve.envelope import Refusal, failed


class Visit(NamedTuple):
    """A request that has passed key and route. `client` is the SHA-256 of the key that it came with, "" without keys."""

    client: str
    method: str
    path: str
    body_bytes: int


class Guard(Config):
    """Decides who is admitted. One object per endpoint sees all its requests, one after the other, so it may count in
    private attributes; a process that is lost begins to count anew."""

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        """Why the request is refused; None admits it. `now_s` is a clock that only goes forward."""
        raise NotImplementedError


class Guards:
    """All guards of one endpoint, in a deployment of its own: a limit is of the endpoint, however many replicas answer."""

    def __init__(self, cards: list[Any]) -> None:
        self._guards: list[Guard] = [resolve(card) for card in cards]

    async def admit(self, visit: Visit) -> Refusal | None:
        """The first refusal, in the order of the job file; guards after it do not see the request."""
        import time

        now_s = time.monotonic()
        return next((refusal for guard in self._guards if (refusal := _asked(guard, visit, now_s)) is not None), None)


def _asked(guard: Guard, visit: Visit, now_s: float) -> Refusal | None:
    """What a guard says; where it fails, nobody is admitted: 500, and its error in the log."""
    try:
        refusal = guard.admit(visit, now_s)
        if refusal is None or isinstance(refusal, Refusal):
            return refusal
        raise TypeError(f"admit returned {type(refusal).__name__}, not None or a Refusal")
    # somebody else's module: a mistake in it shows as any exception
    except (Exception, SystemExit):
        logging.getLogger("ray.serve").exception("the guard %s failed", card_kind(guard))
        return failed()
