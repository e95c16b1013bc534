"""Gives a request to a replica and passes its answer on; to another one when that fails.

nothing was answered yet -> the request is sent again (a generation changes nothing, so it may be repeated)
a stream has begun       -> it goes on where the tokens allow it (`Trail`, `NamedTrail`), else it ends with one error event
the client is gone       -> this task is cancelled, the connection to the replica closed: its engine stops
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from raylm.serve.config import GatewaySpec
from raylm.serve.directory import Address
from raylm.serve.engine.inner import DTYPE, INNER, NAMED, SERVED
from raylm.serve.engine.resume import RESUME
from raylm.serve.engine.spans import SPANS, marks_of, without_comments
from raylm.serve.envelope import Refusal, Refused, restarting
from raylm.serve.gateway.beside import Beside
from raylm.serve.gateway.call import Call
from raylm.serve.gateway.dispatch import Dispatch, Wanted
from raylm.serve.gateway.meter import Meter
from raylm.serve.gateway.named_trail import NamedTrail
from raylm.serve.gateway.reply import Reply, Watchdog
from raylm.serve.gateway.trail import STREAMS, Trail

CONNECT_S = 2.0
"""Seconds until a replica must take a connection."""
GONE_CODES = (b'"engine_restarting"', b'"draining"', b'"not_ready"')
"""What a replica says that cannot take a request: another one can."""
PASSED = ("content-type", SERVED, DTYPE, "retry-after")
"""Headers of a replica's answer that a client gets."""
SENT = ("content-type", "traceparent", "tracestate", "anthropic-version", "anthropic-beta")
"""Headers of a client's request that a replica gets."""


class Lost(Exception):
    """A replica failed a request; never leaves the gateway. `began`: its engine may have worked on it."""

    def __init__(self, why: str, began: bool = True) -> None:
        super().__init__(why)
        self.why, self.began = why, began


class Forward:
    """One for a gateway.

    Args:
        lost: told of a replica that failed a request, and why.
        resumed: told of a stream that goes on elsewhere.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        dispatch: Dispatch,
        spec: GatewaySpec,
        lost: Callable[[Address, str], None],
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        self._session, self._dispatch, self._spec = session, dispatch, spec
        self._lost, self._resumed = lost, resumed
        self.beside: Beside | None = None
        """Told of each attempt, while two versions stand beside each other."""

    async def run(self, call: Call, reply: Reply, tells: Callable[[Trail | NamedTrail | Meter], None]) -> web.StreamResponse:
        """Answer a request.

        Args:
            tells: gets what counts the tokens of the answer, as soon as there is one.

        Raises:
            Refused: nothing was answered, and nobody can.
        """
        if call.streams and call.path in STREAMS:
            trail = Trail(call.path, call.fields, call.max_len)
            tells(trail)
            return await _Stream(self, call, reply, trail).run()
        if call.streams and call.path in NAMED:
            named = NamedTrail(call.path, call.body)
            tells(named)
            return await _Stream(self, call, reply, named).run()
        meter = Meter()
        tells(meter)
        return await self._passed(call, reply, meter)

    async def _passed(self, call: Call, reply: Reply, meter: Meter) -> web.StreamResponse:
        """An answer as it is: whole, or with events of another kind."""
        until, tries = time.monotonic() + self._spec.hold_s, 0
        while True:
            candidate = await self._dispatch.place(Wanted(call.asked), until)
            began = time.monotonic()
            try:
                answer = await self._attempt(call, candidate.address, reply, meter, tries)
                self.answered(call, candidate.address, answer, began, reply.first)
                return answer
            except Lost as lost:
                self.failed(candidate.address, lost.why)
                tries += lost.began
                if reply.started or tries > self._spec.retries:
                    return await reply.refuse(restarting())
            finally:
                self._dispatch.free(candidate, call.asked)

    async def _attempt(self, call: Call, address: Address, reply: Reply, meter: Meter, tries: int) -> web.StreamResponse:
        upstream = await self.open(call, address, call.path, call.body, tries)
        try:
            if not upstream.headers.get("content-type", "").startswith("text/event-stream"):
                async with _in_time(self._spec.first_byte_s, "did not end its answer"):
                    body = await read(upstream)
                meter.see(body, False)
                meter.marks += marks_of(upstream.headers.get(SPANS))
                return reply.whole(upstream.status, passed(upstream), body)
            await self._pass_events(upstream, reply, meter)
            return await reply.end()
        finally:
            upstream.close()

    async def _pass_events(self, upstream: aiohttp.ClientResponse, reply: Reply, meter: Meter) -> None:
        watchdog = Watchdog(self._spec.first_byte_s, self._spec.silence_s, self._spec.longest_s, reply)
        watchdog.watch(upstream.close)
        try:
            while chunk := await piece(upstream, watchdog):
                meter.see(chunk, True)
                if not reply.started:
                    await reply.begin(passed(upstream))
                await write(reply, without_comments(chunk) if meter.marks else chunk, watchdog)
        finally:
            watchdog.stop()

    def answered(
        self, call: Call, address: Address, answer: web.StreamResponse, began: float, first: float, ids: list[int] | None = None
    ) -> None:
        """A replica answered; see `Beside`."""
        if self.beside is not None:
            self.beside.answered(call, address, answer, began, first, ids)

    def failed(self, address: Address, why: str) -> None:
        """A replica failed a request."""
        self._lost(address, why)
        if self.beside is not None:
            self.beside.failed(address)

    async def whole(self, call: Call, address: Address, body: bytes) -> tuple[int, bytes]:
        """Status and whole answer of a copy of a request. Raises ConnectionError."""
        try:
            upstream = await self.open(call._replace(number=f"copy-{call.number}"), address, call.path, body, 0)
            try:
                async with _in_time(self._spec.first_byte_s, "did not end its answer"):
                    return upstream.status, await read(upstream)
            finally:
                upstream.close()
        except Lost as lost:
            raise ConnectionError(lost.why) from None

    async def open(
        self, call: Call, address: Address, path: str, body: bytes, tries: int, given: str = ""
    ) -> aiohttp.ClientResponse:
        """A replica's answer, of which the headers have come. Raises Lost.

        Args:
            given: tokens that the answer has already, where the body does not tell them.
        """
        host = f"[{address.host}]" if ":" in address.host else address.host
        # vLLM names its work after this: each try has a name of its own
        number = f"{call.number}-{tries}" if tries else call.number
        headers = [(INNER, address.secret), ("x-request-id", number), *call.headers, *([(RESUME, given)] if given else [])]
        try:
            async with _in_time(self._spec.first_byte_s, "did not begin to answer"):
                upstream = await self._session.request(
                    call.method, f"http://{host}:{address.port}{path}", data=body or None, headers=headers, allow_redirects=False
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as cause:
            raise Lost("takes no connection", began=False) from cause
        except (aiohttp.ClientError, OSError) as cause:
            raise Lost(f"broke off: {type(cause).__name__}") from cause
        if SERVED not in upstream.headers:
            upstream.close()
            raise Lost("another process listens at its address", began=False)
        if upstream.status == 503:
            try:
                async with _in_time(self._spec.silence_s, "did not end its refusal"):
                    told = await read(upstream)
            except Lost:
                upstream.close()
                raise
            if any(code in told for code in GONE_CODES):
                raise Lost("says that it cannot answer")
        return upstream


class _Stream:
    """One stream whose tokens are known."""

    def __init__(self, forward: Forward, call: Call, reply: Reply, trail: Trail | NamedTrail) -> None:
        self._forward, self._call, self._reply, self._trail = forward, call, reply, trail
        self._spec, self._dispatch = forward._spec, forward._dispatch
        self._like: Address | None = None

    async def run(self) -> web.StreamResponse:
        """Answer it, with as many replicas as it takes."""
        until, tries = time.monotonic() + self._spec.hold_s, 0
        path, body = self._call.path, self._trail.request()
        watchdog = Watchdog(self._spec.first_byte_s, self._spec.silence_s, self._spec.longest_s, self._reply)
        try:
            while True:
                candidate = await self._dispatch.place(Wanted(self._call.asked, self._like), until)
                address, began = candidate.address, time.monotonic()
                try:
                    answer = await self._attempt(address, path, body, tries, watchdog)
                    if not self._trail.failed:
                        self._forward.answered(self._call, address, answer, began, self._reply.first, self._trail.ids)
                    elif self._forward.beside is not None:
                        self._forward.beside.failed(address)
                    return answer
                except Lost as lost:
                    self._forward.failed(address, lost.why)
                    tries += lost.began
                    if tries > self._spec.retries:
                        return await self._reply.refuse(restarting())
                finally:
                    self._dispatch.free(candidate, self._call.asked)
                if self._reply.started:
                    onward = self._trail.resume()
                    if onward is None:
                        return await self._reply.refuse(_broken())
                    if onward.body is None:
                        await self._reply.write(self._trail.last())
                        return await self._reply.end()
                    path, body, until = onward.path, onward.body, time.monotonic() + self._spec.hold_s
                    self._forward._resumed()
                else:
                    self._trail.anew()
        finally:
            watchdog.stop()

    async def _attempt(self, address: Address, path: str, body: bytes, tries: int, watchdog: Watchdog) -> web.StreamResponse:
        upstream = await self._forward.open(self._call, address, path, body, tries, self._trail.given)
        try:
            if upstream.status != 200 or not upstream.headers.get("content-type", "").startswith("text/event-stream"):
                return await self._not_a_stream(upstream)
            watchdog.watch(upstream.close)
            await self._pass(upstream, address, watchdog)
        finally:
            upstream.close()
        return await self._reply.end()

    async def _pass(self, upstream: aiohttp.ClientResponse, address: Address, watchdog: Watchdog) -> None:
        """Chunks, until the stream is whole. The one loop that runs for every token: nothing is done here that need not be."""
        trail, reply = self._trail, self._reply
        while chunk := await piece(upstream, watchdog):
            shown = trail.see(chunk)
            if shown and not reply.started:
                self._like = address
                await reply.begin(passed(upstream))
            if shown:
                await write(reply, shown, watchdog)
            if trail.marks and self._like is not None and trail.marks[-1].served != self._like.fingerprint:
                # it goes on with the weights that its last tokens are of
                self._like = self._like._replace(fingerprint=trail.marks[-1].served)
            if trail.broken:
                raise Lost("says that its engine died")
            if trail.stuck:
                raise Refused(_broken())
        if not trail.ended:
            raise Lost("ended its answer too early")

    async def _not_a_stream(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """What a replica refuses."""
        async with _in_time(self._spec.silence_s, "did not end its refusal"):
            body = await read(upstream)
        if self._reply.started:
            # it does not take the continuation, for whatever reason: the client hears that the answer is not whole
            return await self._reply.refuse(_broken())
        return self._reply.whole(upstream.status, passed(upstream), body)


async def piece(upstream: aiohttp.ClientResponse, watchdog: Watchdog) -> bytes:
    """What has come of a stream; b"" at its end. Raises Lost; Refused where it has taken too long, which is no fault of the
    replica's."""
    try:
        chunk = await upstream.content.readany()
    except (aiohttp.ClientError, OSError) as cause:
        if watchdog.overdue:
            raise _overdue(watchdog) from None
        raise Lost(watchdog.why or f"broke off: {type(cause).__name__}") from cause
    if watchdog.overdue:
        raise _overdue(watchdog)
    if watchdog.why:
        raise Lost(watchdog.why)
    watchdog.last, watchdog.begun = asyncio.get_running_loop().time(), True
    return chunk


async def write(reply: Reply, data: bytes, watchdog: Watchdog) -> None:
    """Hand a piece to the client."""
    watchdog.writing = True
    await reply.write(data)
    watchdog.writing = False


async def read(upstream: aiohttp.ClientResponse) -> bytes:
    """A whole answer. Raises Lost."""
    try:
        return await upstream.read()
    except (aiohttp.ClientError, OSError) as cause:
        raise Lost(f"broke off: {type(cause).__name__}") from cause


def passed(upstream: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Headers of a replica's answer for the client."""
    return [(name, value) for name in PASSED if (value := upstream.headers.get(name)) is not None]


class _in_time:
    """A deadline on a step of a replica's; raises Lost where it passes."""

    def __init__(self, seconds: float, what: str) -> None:
        self._timeout, self._seconds, self._what = asyncio.timeout(seconds), seconds, what

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise Lost(f"{self._what} within {self._seconds:g} s") from None


def _overdue(watchdog: Watchdog) -> Refused:
    message = f"The answer took more than {watchdog.longest_s:g} s, the most that this endpoint gives one."
    return Refused(Refusal(504, message, "timeout"))


def _broken() -> Refusal:
    message = "The engine that made this answer stopped, and no other can go on with it; send the request again."
    return Refusal(503, message, "engine_restarting", None, 5)
