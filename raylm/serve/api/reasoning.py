"""Gives thoughts in answers of /v1/chat/completions the name that most clients look for, `reasoning_content`, beside vLLM's."""

from __future__ import annotations

import re

from raylm.serve.engine.inner import App, Receive
from raylm.serve.envelope import Message, Send

PATH = "/v1/chat/completions"
# a key of JSON, and its text: within a text of JSON these quotes would be escaped
_NAMED = re.compile(rb'([{,]\s*)"reasoning":\s*("(?:[^"\\]|\\.)*")')


def also_content(body: bytes) -> bytes:
    """`body`, with each text `reasoning` told as `reasoning_content` too."""
    return _NAMED.sub(rb'\1"reasoning":\2,"reasoning_content":\2', body) if b'"reasoning"' in body else body


class ReasoningContent:
    """ASGI middleware around vLLM's app, for models whose thoughts are read. vLLM sends each event whole."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return

        async def renamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                # a body may grow
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"content-length"]
                message = {**message, "headers": kept}
            elif message.get("body"):
                message = {**message, "body": also_content(message["body"])}
            await send(message)

        await self._app(scope, receive, renamed)
