"""The way back to one client: a whole answer, or a stream with its deadline for clients that do not read."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable

from aiohttp import web

from raylm.serve.envelope import Refusal, envelope, event

Headers = Iterable[tuple[str, str]]
LAST = (b"data: [DONE]", b"event: message_stop", b'"type":"response.completed"')
_NUMBER = re.compile(rb'"sequence_number": ?(\d+)')
"""In the last event of a stream; clients leave once they have it."""
STALL_S = 60.0
"""Seconds that a client may read nothing of what waits for it."""


class Reply:
    """What has been answered to one request."""

    def __init__(self, request: web.BaseRequest, path: str) -> None:
        self._request, self._path = request, path
        self._stream: web.StreamResponse | None = None
        self.said: list[tuple[str, str]] = []
        self.status, self.first = 500, 0.0
        """Of HTTP, and when the answer began (time.monotonic)."""
        self.told_all = False
        """The last event of the stream is out."""
        self._numbers = path == "/v1/responses"
        self._next = 0
        """Number of the next event, where events have one."""

    @property
    def started(self) -> bool:
        """Whether a stream has begun: its status is out."""
        return self._stream is not None

    def say(self, headers: Headers) -> None:
        """Headers that this answer carries too; a later one of a name takes the place of an earlier one."""
        names = {name.lower() for name, _ in headers}
        self.said = [each for each in self.said if each[0].lower() not in names] + list(headers)

    async def begin(self, headers: Headers) -> None:
        """Begin a stream."""
        self._begun(200)
        self.say(headers)
        stream = web.StreamResponse(headers=self.said)
        stream.headers.setdefault("cache-control", "no-store")
        self._stream = stream
        await stream.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """A piece of the stream. Waits while the client does not read."""
        assert self._stream is not None
        await self._stream.write(data)
        if self._numbers and (seen := _NUMBER.findall(data)):
            self._next = int(seen[-1]) + 1
        self.told_all = self.told_all or any(last in data for last in LAST)

    async def end(self) -> web.StreamResponse:
        """The stream is whole."""
        assert self._stream is not None
        await self._stream.write_eof()
        return self._stream

    def whole(self, status: int, headers: Headers, body: bytes) -> web.StreamResponse:
        """An answer that is not a stream."""
        self._begun(status)
        self.say(headers)
        return web.Response(status=status, headers=self.said, body=body)

    async def refuse(self, refusal: Refusal) -> web.StreamResponse:
        """The refusal as the whole answer; in a stream that has begun, as its last event."""
        if self.started:
            await self.write(event(refusal, self._path, self._next))
            return await self.end()
        return self.whole(refusal.status, told(refusal), envelope(refusal, self._path))

    def cut_off(self) -> None:
        """The client has read nothing for too long: end its connection, and with it this request."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _begun(self, status: int) -> None:
        self.status, self.first = status, time.monotonic()


def told(refusal: Refusal) -> list[tuple[str, str]]:
    """Headers of a refusal."""
    said = [("content-type", "application/json"), *((name.decode(), value.decode()) for name, value in refusal.headers)]
    return [*said, ("retry-after", str(refusal.retry_after_s))] if refusal.retry_after_s is not None else said


class Watchdog:
    """Ends a stream that is silent, endless, or not read; one timer for each, set anew a few times and not with every chunk.

    Args:
        first_s: seconds without the first chunk of a replica (it may have a queue) after which `silent` is called.
        silence_s: seconds without a chunk after which it is called later on.
        longest_s: seconds after which it is called in any case.
    """

    def __init__(self, first_s: float, silence_s: float, longest_s: float, reply: Reply) -> None:
        self._loop, self._reply = asyncio.get_running_loop(), reply
        self._first_s, self._silence_s, self._end = first_s, silence_s, self._loop.time() + longest_s
        self._silent, self.longest_s, self.overdue = lambda: None, longest_s, False
        self.last = self._loop.time()
        self.writing = self.begun = False
        self.why = ""
        self._timer = self._loop.call_later(self._period(), self._look)

    def watch(self, silent) -> None:  # type: ignore[no-untyped-def]
        """From now on the answer of another replica."""
        self._silent, self.last, self.why, self.begun = silent, self._loop.time(), "", False

    def stop(self) -> None:
        """The stream has ended."""
        self._timer.cancel()

    def _period(self) -> float:
        return max(0.01, min(self._silence_s, self._first_s, STALL_S) / 4)

    def _look(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(self._period(), self._look)
        if self.writing:
            if now - self.last > STALL_S:
                self._reply.cut_off()
        elif now - self.last > (self._silence_s if self.begun else self._first_s) or now > self._end:
            self.why, self.overdue = "fell silent", now > self._end
            self._silent()
