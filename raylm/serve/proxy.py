"""Configures Serve's HTTP proxy: closes its own pages, gives its errors the common form.

The proxy runs in a process of Serve's, before any replica: it answers when there is no replica, or when one dies.
"""

from __future__ import annotations

from typing import Any

from raylm.serve.door import GONE, SERVED, App, Receive
from raylm.serve.envelope import Message, Refusal, Send, answer, envelope, restarting

ROUTES = "/-/routes"
# no door takes more (`limits.body_bytes`); the proxy would keep all of it in memory while no replica is ready
MOST_BYTES = 64_000_000


def middlewares() -> list[Any]:
    """What Serve puts around its proxy."""
    from starlette.middleware import Middleware

    return [Middleware(Outer)]


class Outer:
    """ASGI middleware around the proxy. What comes signed from a door passes as it is."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith(ROUTES):
            # any other path goes to the door, which asks for the key and then knows no such route
            scope = {**scope, "path": f"{scope['path']}/"}
        back = _Back(send)
        await self._app(scope, _Counting(receive, back), back)
        await back.end()


class _Counting:
    """`receive`, until a body is larger than any door takes: then the client is told, and Serve hears that it left."""

    def __init__(self, receive: Receive, back: _Back) -> None:
        self._receive, self._back, self._bytes = receive, back, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            await self._back.refuse(Refusal(413, f"The body has more than {MOST_BYTES} bytes.", "request_too_large"))
            return GONE
        return message


class _Back:
    """The way back. A failure without a door's signature is Serve's: no replica is there, or it died with the request."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._failed = self._started = self._done = self._streams = False

    async def __call__(self, message: Message) -> None:
        if self._done or self._failed:
            return
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message.get("headers", [])}
            self._failed = message["status"] >= 400 and SERVED.encode() not in headers
            if self._failed:
                return
            self._started, self._streams = True, headers.get(b"content-type", b"").startswith(b"text/event-stream")
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._done = True
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the refusal, unless an answer has begun."""
        if not self._started and not self._done:
            self._done = True
            await answer(self._send, refusal)

    async def end(self) -> None:
        """Whatever is missing when the proxy has ended: all of an answer, or the end of one."""
        if self._started and self._streams and not self._done:
            self._done = True
            await self._send({"type": "http.response.body", "body": b"data: " + envelope(restarting()) + b"\n\n"})
        await self.refuse(restarting())
