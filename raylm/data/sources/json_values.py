"""Streams the rows of JSON files that are not JSON Lines: one array, or objects over several lines."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import IO

_BLOCK = 1 << 20
HEAD_BYTES = 1 << 16
_INNER = re.compile(rb'"(?:[^"\\]++|\\[\s\S])*+"|["{}\[\]]')
# between rows also numbers and words count
_OUTER = re.compile(rb'"(?:[^"\\]++|\\[\s\S])*+"|["{}\[\]]|[^\s,"{}\[\]]++')
_STRING = re.compile(rb'(?:[^"\\]++|\\[\s\S])*+')


def is_spread(head: bytes) -> bool:
    """Whether a file that begins so is one array, or has objects over several lines."""
    head = head.removeprefix(BOM_UTF8).lstrip()
    if head[:1] != b"{":
        return head[:1] == b"["
    first, _, rest = head.partition(b"\n")
    # a first line that is broken off stands in front of one that begins like a line
    return bool(rest) and not first.rstrip().endswith(b"}") and (first.strip() == b"{" or rest[:1] in b' \t\r"}')


def values_in(file: IO[bytes], max_bytes: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(start, end, bytes) of every row: an element of an array, or a value by itself; no more than one is held in memory.

    Of a row of more than `max_bytes` the bytes are None. A row that the file's end cuts off is the last one, as it is;
    of an array that is never closed what is missing is one more row, of no bytes.
    """
    reading = _Reading(max_bytes)
    while block := file.read(_BLOCK):
        yield from reading.take(block)
    yield from reading.end()


class _Reading:
    """`at` is the place in the file of the first byte held; `place` is where in `held` reading goes on."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held, self._at, self._place = b"", 0, 0
        self._depth = self._base = 0
        self._in_string = self._too_long = False
        self._start = -1

    def take(self, block: bytes) -> Iterator[tuple[int, int, bytes | None]]:
        self._held += block
        if not self._at and not self._place and self._held.startswith(BOM_UTF8):
            self._place = len(BOM_UTF8)
        yield from self._rows(is_last=False)
        self._forget()

    def end(self) -> Iterator[tuple[int, int, bytes | None]]:
        yield from self._rows(is_last=True)
        size = self._at + len(self._held)
        if self._start >= 0:
            yield self._start, size, None if self._too_long else self._held[self._start - self._at :]
        elif self._depth:
            yield size, size, b""

    def _rows(self, is_last: bool) -> Iterator[tuple[int, int, bytes | None]]:
        while True:
            if self._in_string:
                if not self._left_string():
                    return
                if self._depth == self._base:
                    yield self._row(self._place)
            outer = self._depth == self._base and self._start < 0
            found = (_OUTER if outer else _INNER).search(self._held, self._place)
            if found is None:
                self._place = len(self._held)
                return
            sign, start, end = found[0], found.start(), found.end()
            if sign not in b'"{}[]' and sign[:1] != b'"' and end == len(self._held) and not is_last:
                self._place = start
                return  # a number or a word may go on in the next block
            self._place = end
            if outer and sign == b"[" and not self._base:
                self._base = self._depth = 1
                continue
            if outer and sign == b"]":
                self._base = self._depth = 0
                continue
            if outer:
                self._start = self._at + start
            if sign == b'"':
                self._in_string = True
                continue
            self._depth += (sign in b"{[") - (sign in b"}]") if len(sign) == 1 else 0
            if self._depth <= self._base:
                self._depth = self._base
                yield self._row(end)

    def _left_string(self) -> bool:
        """Whether the string that began before ends in what is held."""
        found = _STRING.match(self._held, self._place)
        self._place = found.end() if found else self._place
        if self._held[self._place : self._place + 1] != b'"':
            return False
        self._place += 1
        self._in_string = False
        return True

    def _row(self, end: int) -> tuple[int, int, bytes | None]:
        start, self._start = self._start, -1
        too_long, self._too_long = self._too_long or self._at + end - start > self._max_bytes, False
        return start, self._at + end, None if too_long else self._held[start - self._at : end]

    def _forget(self) -> None:
        """Let go what is read, and of a row that is too long all but its place."""
        self._too_long |= 0 <= self._start < self._at + len(self._held) - self._max_bytes
        keep = self._place if self._start < 0 or self._too_long else self._start - self._at
        self._held, self._at, self._place = self._held[keep:], self._at + keep, self._place - keep
