"""What stands before a page that holds a key: only names of this machine reach a page on loopback, and the browser loads
nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .look import CSP
from .places import LOOPBACK

Message = dict[str, Any]


class Guard:
    """ASGI middleware. A page of another site could give its name the address of this machine (DNS rebinding) and spend the key;
    what it cannot do is to ask for `localhost`."""

    def __init__(self, app: Any, host: str) -> None:
        self._app, self._loopback = app, host in LOOPBACK

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = asked.rsplit(":", 1)[0].strip("[]") if asked.rsplit(":", 1)[-1].isdigit() else asked.strip("[]")
        if self._loopback and name.lower() not in LOOPBACK:
            await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page answers at 127.0.0.1 and localhost."})
            return

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", CSP.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *own, (b"x-content-type-options", b"nosniff")]}
            await send(message)

        await self._app(scope, receive, say)
