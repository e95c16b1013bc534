"""What every guard has, and what asks the guards of an endpoint in order.

gateway (or Control, for several gateways): Guards: first card -> second card -> ... -> admitted, or the first refusal
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from typing import Any, NamedTuple

from raylm.core.config import Config, card_kind, resolve
from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.serve.envelope import Refusal, failed

SAVE_S = 1.0
"""Least seconds between two writes of what guards counted."""


class Visit(NamedTuple):
    """A request that has passed key and route."""

    client: str
    """SHA-256 of the key that it came with, "" without keys."""
    method: str
    path: str
    body_bytes: int
    key: str = ""
    """Name of the key."""
    number: str = ""
    """Of this request: what `finish` is told of, `admit` was asked about."""


class Guard(Config):
    """Decides who is admitted. One object per endpoint sees all its requests, one after the other, so it may count in
    private attributes; a process that is lost begins to count anew."""

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        """Why the request is refused; None admits it. `now_s` is a clock that only goes forward."""
        raise NotImplementedError

    def finish(self, visit: Visit, tokens: int, now_s: float) -> None:
        """The request that was admitted has ended, with `tokens` of prompt and answer together."""

    def headers(self, visit: Visit, now_s: float) -> dict[str, str]:
        """What the client is told of its limits, as `x-ratelimit-...`."""
        return {}

    def state(self) -> dict[str, Any] | None:
        """What must outlive the process, as JSON; None where it may count anew."""
        return None

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""


class Admission(NamedTuple):
    """What the guards say of a request."""

    refusal: Refusal | None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guards:
    """All guards of one endpoint, in one process: a limit is of the endpoint, however many replicas and gateways there are.

    Args:
        state_uri: of the file that holds what must outlive this process; "" where nothing does.
    """

    def __init__(self, cards: list[Any], state_uri: str = "") -> None:
        self._guards: list[Guard] = [resolve(card) for card in cards]
        self._folder, _, self._file = state_uri.rpartition("/")
        self._saved, self._waiting, self._writing = 0.0, False, asyncio.Lock()
        self._restore()

    async def admit(self, visit: Visit) -> Admission:
        """The first refusal, in the order of the job file; guards after it do not see the request, and those before it are told
        that it has ended."""
        now_s, passed, refusal = time.monotonic(), list[Guard](), None
        for guard in self._guards:
            refusal = _asked(guard, visit, now_s)
            if refusal is not None:
                break
            passed.append(guard)
        if refusal is not None:
            _tell(passed, visit, 0)
        said = [each for guard in self._guards for each in _headers(guard, visit, now_s).items()]
        return Admission(refusal, tuple((name.encode(), value.encode()) for name, value in said))

    async def finish(self, visit: Visit, tokens: int) -> None:
        """An admitted request has ended."""
        self.count(visit, tokens)
        await self.save()

    def count(self, visit: Visit, tokens: int) -> None:
        """An admitted request has ended; counted at once, so that its client's next one finds it counted. `save` is to follow."""
        _tell(self._guards, visit, tokens)

    async def save(self) -> None:
        """Write what must outlive this process, at most once in `SAVE_S`: that much may be counted too little after its death."""
        if not self._file or self._waiting or not any(_state(guard) is not None for guard in self._guards):
            return
        self._waiting = True
        try:
            # one at a time: an older state must not be written over a newer one
            async with self._writing:
                await asyncio.sleep(max(0.0, self._saved + SAVE_S - time.monotonic()))
                self._waiting, self._saved = False, time.monotonic()
                await self._write()
        except asyncio.CancelledError:
            self._waiting = False
            raise

    async def _write(self) -> None:
        # a copy: counting goes on while it is written
        states = copy.deepcopy([(guard.identity(), state) for guard in self._guards if (state := _state(guard)) is not None])
        told = [{"guard": guard, "state": state} for guard, state in states]
        try:
            await asyncio.to_thread(Folder(self._folder).make().write_json, self._file, told)
        except StorageError as cause:
            logging.getLogger("ray.serve").error("what guards counted cannot be written: %s", cause)

    def _restore(self) -> None:
        if not self._file or not Folder(self._folder).exists(self._file):
            return
        states = Folder(self._folder).read_json(self._file)
        for guard in self._guards:
            # of a budget that was changed what was used is kept: it is told by its kind and period alone
            for each in states:
                if _state(guard) is not None and _same(each["guard"], guard.identity()):
                    guard.restore(each["state"])


def _state(guard: Guard) -> dict[str, Any] | None:
    return guard.state() if hasattr(guard, "state") else None


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("kind", "period"))


def _tell(guards: list[Guard], visit: Visit, tokens: int) -> None:
    """Let guards know that a request which they admitted has ended."""
    for guard in guards:
        try:
            # somebody else's may have `admit` alone
            if hasattr(guard, "finish"):
                guard.finish(visit, tokens, time.monotonic())
        except (Exception, SystemExit):
            logging.getLogger("ray.serve").exception("the guard %s failed", card_kind(guard))


def _headers(guard: Guard, visit: Visit, now_s: float) -> dict[str, str]:
    try:
        return guard.headers(visit, now_s) if hasattr(guard, "headers") else {}
    except (Exception, SystemExit):
        logging.getLogger("ray.serve").exception("the guard %s failed", card_kind(guard))
        return {}


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
