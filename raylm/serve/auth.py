"""Takes an ASGI app with many routes, leaves one door: listed routes only, and a key on all but /health."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# vLLM's own app also mounts routes that pause the engine, load adapters or run arbitrary calls: what is not here is not there
OPEN = frozenset({"/health"})
KEYED = frozenset(
    {
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
        "/version",
        "/metrics",
    }
)
MODEL = "/v1/models/"
SERVED = "x-raylm-served"
DTYPE = "x-raylm-dtype"


class FrontDoor:
    """ASGI middleware. It knows the key's digest only, so that no cluster state and no log can show the key.

    Args:
        app: what is behind the door.
        key_digest: `key_digest(key)`; None asks for no key.
        says: headers that every answer carries: SERVED, the fingerprint of the weights behind the door, and DTYPE, what the
            engine computes in.
    """

    def __init__(self, app: App, key_digest: str | None, says: dict[str, str]) -> None:
        self._app, self._key_digest = app, key_digest
        self._says = [(name.encode(), value.encode()) for name, value in says.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self._refusal(scope)) is not None:
            await _answer(send, *refusal)
        else:
            await self._app(scope, receive, self._signing(send))

    def _signing(self, send: Send) -> Send:
        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._says]
            await send(message)

        return signed

    def _refusal(self, scope: Scope) -> tuple[int, str, str, str] | None:
        """Status, message, type and code of the refusal; None lets the request through."""
        path = scope["path"]
        if path in OPEN:
            return None
        # the key comes first: without it nobody learns which routes there are
        if self._key_digest is not None and not self._has_key(scope):
            return 401, "Send the endpoint's key as 'Authorization: Bearer <key>'.", "authentication_error", "invalid_api_key"
        if path not in KEYED and not path.startswith(MODEL):
            return 404, f"No such route: {scope['method']} {path}", "invalid_request_error", "unknown_url"
        return None

    def _has_key(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        scheme, _, key = sent[0].decode("latin-1").partition(" ") if len(sent) == 1 else ("", "", "")
        same = hmac.compare_digest(key_digest(key.strip()), self._key_digest or "")
        return same and scheme.lower() == "bearer"


def key_digest(key: str) -> str:
    """SHA-256 of the key. Keys are random and long, so a plain digest cannot be searched back."""
    return hashlib.sha256(key.encode()).hexdigest()


async def _answer(send: Send, status: int, message: str, kind: str, code: str) -> None:
    """An error in OpenAI's shape, which its clients turn into typed exceptions."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
