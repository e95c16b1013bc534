"""The HTTP side of a gateway: aiohttp's strict parser, a deadline on headers, and OpenAI's envelope for what is no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from raylm.serve.envelope import Refusal, Refused, envelope, failed

HEADER_S = 10.0
"""Seconds from the first byte of a request to the last of its headers."""
BODY_S = 120.0
IDLE_S = 75.0
"""Seconds that a connection may wait for its next request."""
LINGER_S = 2.0
"""Seconds in which the rest of a refused body is read, so that the client sees the refusal."""
BIND_S = 10.0
"""Seconds in which the port of a gateway that died must be free again."""
BACKLOG = 2048

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """One client."""

    _timer: asyncio.TimerHandle | None = None
    _busy = False

    def data_received(self, data: bytes) -> None:
        if not self._busy and self._timer is None and data:
            self._timer = asyncio.get_running_loop().call_later(HEADER_S, self.force_close)
        super().data_received(data)

    def begin(self) -> None:
        """The headers of a request are whole."""
        self._busy = True
        self._disarm()

    async def finish_response(self, *args: Any) -> Any:
        try:
            return await super().finish_response(*args)
        finally:
            self._busy = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no HTTP, or what failed here."""
        if status == 400:
            refusal = Refusal(400, "This is no valid HTTP/1.1 request.", "bad_request")
        else:
            logging.getLogger("raylm.gateway").error("a request failed here", exc_info=exc)
            refusal = failed()
        response = web.Response(status=refusal.status, body=envelope(refusal), content_type="application/json")
        response.force_close()
        return response

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener(web.Server):
    """aiohttp's server with our connections. A client that leaves cancels its handler."""

    def __init__(self, handler: Handler) -> None:
        self._options: dict[str, Any] = {
            "keepalive_timeout": IDLE_S,
            "lingering_time": LINGER_S,
            "access_log": None,
            # nobody's gzip bomb is opened here
            "auto_decompress": False,
        }
        super().__init__(handler, request_factory=self._made, handler_cancellation=True)
        self._listening: asyncio.Server | None = None

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def _made(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        protocol.begin()
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())

    async def listen(self, host: str, port: int) -> int:
        """Take connections; returns the port. Waits for one that a gateway before this one still holds. Raises OSError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BIND_S
        while True:
            try:
                # without reuse_port: a port that another process has must not be shared with it
                self._listening = await loop.create_server(self, host, port, reuse_address=True, backlog=BACKLOG)
                return self._listening.sockets[0].getsockname()[1]
            except OSError:
                if loop.time() > until:
                    raise
                await asyncio.sleep(0.1)

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        if self._listening is not None:
            self._listening.close()


async def whole_body(request: web.BaseRequest, most: int) -> bytes:
    """The body of a request. Raises Refused: too large, too slow, or packed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(Refusal(415, "Send the body as it is, without Content-Encoding.", "unsupported_media_type"))
    too_large = Refused(
        Refusal(413, f"The body has more than {most} bytes, the most that this endpoint takes.", "request_too_large")
    )
    if (request.content_length or 0) > most:
        raise too_large
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            while part := await request.content.readany():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise too_large
    except TimeoutError as late:
        raise Refused(Refusal(408, f"The body did not arrive within {BODY_S:g} s.", "timeout")) from late
    except web.RequestPayloadError as cause:
        raise Refused(Refusal(400, "The body is not framed as HTTP/1.1 says.", "bad_request")) from cause
    return b"".join(parts)
