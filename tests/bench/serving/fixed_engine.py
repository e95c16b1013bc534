"""An engine of fixed latency behind an OpenAI-compatible stream: each token comes at its time, whatever else is asked. Without an
HTTP library, so that it takes little of the machine.

    python -m tests.bench.serving.fixed_engine PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

FIRST_S, EACH_S, TOKENS = 0.2, 0.5, 8
PAGE = json.dumps({"object": "list", "data": [{"id": "raylm", "object": "model"}]}).encode()
SAYS = b"x-raylm-served: f00d\r\nx-raylm-dtype: float32\r\n"


def event(number: int) -> bytes:
    """One token in vLLM's words, as a chunk of HTTP/1.1."""
    choice = {"index": 0, "text": f" {number}", "logprobs": None, "finish_reason": "length" if number == TOKENS else None}
    choice |= {"stop_reason": None, "prompt_token_ids": [1, 2] if number == 1 else None, "token_ids": [number]}
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "raylm", "choices": [choice]}
    return framed(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")


def framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


EVENTS = [event(number) for number in range(1, TOKENS + 1)]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n" + SAYS + b"\r\n"
END = framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client, one request after the other."""

    def __init__(self) -> None:
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
        if b"transfer-encoding: chunked" in lower:
            if not body.endswith(b"0\r\n\r\n"):
                return
        elif len(body) < length:
            return
        self._held = b""
        if head.startswith(b"POST"):
            self._loop = asyncio.get_running_loop()
            self._began, self._at = self._loop.time(), 0
            self._loop.call_at(self._began + FIRST_S, self._next)
        else:
            size = f"content-length: {len(PAGE)}\r\n".encode()
            kind = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            self._transport.write(kind + SAYS + size + b"\r\n" + PAGE)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        piece = (HEAD if self._at == 0 else b"") + EVENTS[self._at]
        self._at += 1
        self._transport.write(piece + (END if self._at == TOKENS else b""))
        if self._at < TOKENS:
            self._loop.call_at(self._began + FIRST_S + self._at * EACH_S, self._next)


async def serve(port: int) -> None:
    """Until it is ended."""
    listening = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    print(f"listening since {time.time():.0f}", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
