"""What an answer cost: the tokens that vLLM counted, read as the answer passes; and what is known of a request at its end."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from raylm.serve.guards.guard import Visit

STREAMS = ("/v1/chat/completions", "/v1/completions")
"""Routes whose streams tell their usage only when they are asked."""
# within a text of JSON these quotes would be escaped
_USAGE = re.compile(rb'"usage":\s*\{')
_PARTS = {
    "prompt": re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)'),
    "answer": re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)'),
}


class Done(NamedTuple):
    """A request that has ended."""

    visit: Visit
    status: int
    """Of HTTP; 499 where the client left before the end."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_s: float
    """Until the first byte of the answer."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def asking_usage(path: str, body: bytes) -> tuple[bytes, bool]:
    """A body that asks a stream to tell its usage, and whether the client did not."""
    if path not in STREAMS or b'"stream"' not in body:
        return body, False
    try:
        fields: Any = json.loads(body)
    except ValueError:
        return body, False
    if not isinstance(fields, dict) or not fields.get("stream"):
        return body, False
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict) or options.get("include_usage"):
        return body, False
    return json.dumps({**fields, "stream_options": {**options, "include_usage": True}}).encode(), True


class Counter:
    """Reads the usage of one answer, chunk by chunk.

    Args:
        hides: the client did not ask for it: the event that holds nothing else does not pass.
    """

    def __init__(self, hides: bool) -> None:
        self._hides, self.prompt_tokens, self.completion_tokens = hides, 0, 0
        self._tail = b""

    def see(self, body: bytes, streams: bool) -> bytes:
        """What is passed on of a chunk."""
        if not streams:
            # usage follows the choices; what is after it is short
            self._tail = (self._tail + body)[-65536:]
            self._read(self._tail)
            return body
        if b'"usage"' not in body:
            return body
        kept = []
        for event in body.split(b"\n\n"):
            found = self._read(event)
            if not (found and self._hides and re.search(rb'"choices":\s*\[\s*\]', event)):
                kept.append(event)
        return b"\n\n".join(kept)

    def _read(self, text: bytes) -> bool:
        places = [found.end() for found in _USAGE.finditer(text)]
        if not places:
            return False
        # details of it are nested, and no object follows that has such keys
        counts = [int(found[1]) if (found := part.search(text, places[-1])) else 0 for part in _PARTS.values()]
        self.prompt_tokens, self.completion_tokens = counts
        return True
