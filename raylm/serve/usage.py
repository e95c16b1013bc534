"""What an answer cost: the tokens that vLLM counted, read as the answer passes; and what is known of a request at its end."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from raylm.serve.guards.guard import Visit
from raylm.serve.spans import Mark

STREAMS = ("/v1/chat/completions", "/v1/completions")
"""Routes whose streams tell their usage only when they are asked."""
# within a text of JSON these quotes would be escaped
_NOTHING, _EACH = re.compile(rb'"choices":\s*\[\s*\]'), re.compile(rb',?"usage":\s*\{[^{}]*\}')
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
    served: str = ""
    """Fingerprint of the weights that the answer began with; "" where nobody answered."""
    marks: tuple[Mark, ...] = ()
    """Where they changed under it."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Shown(NamedTuple):
    """What of the usage in a stream the client asked for."""

    at_end: bool = True
    in_each: bool = True


def asking_usage(path: str, body: bytes) -> tuple[bytes, Shown]:
    """A body that asks a stream to tell its usage with each event, as a client may leave before the last; and what of it the
    client asked for itself."""
    if path not in STREAMS or b'"stream"' not in body:
        return body, Shown()
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body, Shown()
    if not isinstance(fields, dict) or not fields.get("stream"):
        return body, Shown()
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        return body, Shown()
    at_end = bool(options.get("include_usage"))
    shown = Shown(at_end, at_end and bool(options.get("continuous_usage_stats")))
    every = {**options, "include_usage": True, "continuous_usage_stats": True}
    return json.dumps({**fields, "stream_options": every}).encode(), shown


class Counter:
    """Reads the usage of one answer, chunk by chunk.

    Args:
        shown: what of it passes; an event that holds nothing else does not where it was not asked for.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown, self.prompt_tokens, self.completion_tokens = shown, 0, 0
        self.ended = False
        """All of a stream came."""
        self._tail = b""

    def see(self, body: bytes, streams: bool) -> bytes:
        """What is passed on of a chunk."""
        if not streams:
            # usage follows the choices; what is after it is short
            self._tail = (self._tail + body)[-65536:]
            self._read(self._tail)
            return body
        self.ended = self.ended or b"data: [DONE]" in body
        if b'"usage"' not in body:
            return body
        kept = []
        for event in body.split(b"\n\n"):
            found, last = self._read(event), bool(_NOTHING.search(event))
            if found and last and not self._shown.at_end:
                continue
            kept.append(_EACH.sub(b"", event) if found and not last and not self._shown.in_each else event)
        return b"\n\n".join(kept)

    def _read(self, text: bytes) -> bool:
        places = [found.end() for found in _USAGE.finditer(text)]
        if not places:
            return False
        # details of it are nested, and no object follows that has such keys
        counts = [int(found[1]) if (found := part.search(text, places[-1])) else 0 for part in _PARTS.values()]
        self.prompt_tokens, self.completion_tokens = counts
        return True
