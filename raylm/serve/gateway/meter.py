"""Tokens of the answers whose events are passed on as they are, read of the usage that vLLM tells in them."""

from __future__ import annotations

import re
from typing import Any

from raylm.serve.engine.spans import COMMENT, Mark, marks_in

# within a text of JSON these quotes would be escaped
_USAGE = re.compile(rb'"usage":\s*\{')
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)')
_ANSWER = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_DELTA = re.compile(rb"(?:^|\n)event: [\w.]*delta\b")
KEPT_BYTES = 65536


class Meter:
    """Of one answer."""

    def __init__(self) -> None:
        self._tail, self._told, self._deltas = b"", (0, 0), 0
        self.marks: tuple[Mark, ...] = ()
        """Where the weights changed under it."""

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer. A client that leaves before the usage came is charged a token for each event that it got."""
        prompt, answer = self._told
        return prompt, max(answer, self._deltas)

    def see(self, chunk: bytes, streams: bool) -> None:
        """Read a piece of the answer."""
        if streams:
            self._deltas += len(_DELTA.findall(chunk))
            if COMMENT in chunk:
                self.marks += marks_in(chunk)
        # in a stream usage follows the answer's text, and what comes after it is short; a whole answer may tell all tokens of the
        # prompt behind it
        seen = self._tail + chunk
        self._tail = seen[-KEPT_BYTES:] if streams else seen
        places = [found.end() for found in _USAGE.finditer(self._tail)]
        if places:
            # details of it are nested, and no object follows that has such keys
            self._told = _number(_PROMPT, self._tail, places[-1]), _number(_ANSWER, self._tail, places[-1])


class Cost:
    """Tokens of an answer of whatever kind, as far as it went."""

    model = ""
    _counter: Any = None

    def by(self, counter: Any) -> None:
        """What counts them is this `Meter` or `Trail`."""
        self._counter = counter

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer."""
        return self._counter.tokens if self._counter is not None else (0, 0)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Where the weights changed under it."""
        return self._counter.marks if self._counter is not None else ()


def _number(kind: re.Pattern[bytes], text: bytes, place: int) -> int:
    found = kind.search(text, place)
    return int(found[1]) if found else 0
