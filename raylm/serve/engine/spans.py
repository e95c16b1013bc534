"""Which weights made which tokens of an answer, where they changed under it: as a replica tells its gateway, and as the audit log
keeps it.

in a stream, before the first event of the new weights:  `: raylm-spans FINGERPRINT 0:22,1:25` (a comment of SSE)
in a whole answer:                                       header `x-raylm-spans: FINGERPRINT 0:22,1:25; ...`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SPANS = "x-raylm-spans"
COMMENT = b": raylm-spans "
_MARK = re.compile(r"\s*([\w.:-]+) ((?:\d+:\d+(?:,\d+:\d+)*)?)\s*")
_COMMENTS = re.compile(rb"(?:^|(?<=\n)): raylm-spans ([^\n]*)\n\n")


class Mark(NamedTuple):
    """From here on an answer is of other weights."""

    served: str
    """Their fingerprint."""
    before: tuple[tuple[int, int], ...]
    """Places of choices, and how many tokens of each are of the weights before; empty where that is not known."""


def header_of(marks: Iterable[Mark]) -> str:
    """Marks as the value of a header."""
    return "; ".join(f"{each.served} {','.join(f'{choice}:{count}' for choice, count in each.before)}" for each in marks)


def comment_of(mark: Mark) -> bytes:
    """A mark as a comment between two events."""
    return COMMENT + header_of([mark]).encode() + b"\n\n"


def marks_of(header: str | None) -> tuple[Mark, ...]:
    """What `header_of` wrote; what is not of that form is left out."""
    found = [_MARK.fullmatch(each) for each in (header or "").split(";")]
    return tuple(
        Mark(each[1], tuple((int(pair[0]), int(pair[1])) for part in each[2].split(",") if len(pair := part.split(":")) == 2))
        for each in found
        if each
    )


def marks_in(chunk: bytes) -> tuple[Mark, ...]:
    """Marks of the comments in a piece of a stream."""
    return tuple(mark for text in _COMMENTS.findall(chunk) for mark in marks_of(text.decode("ascii", "replace")))


def without_comments(chunk: bytes) -> bytes:
    """A piece of a stream less those comments."""
    return _COMMENTS.sub(b"", chunk)


def spans_of(first: str, marks: Sequence[Mark]) -> list[tuple[int, str, int | None, int | None]]:
    """Spans of tokens by choice: (choice, fingerprint, first token, token after the last one). None as the end is the end of the
    answer; None elsewhere is a place that is not known.

    Args:
        first: fingerprint of the weights that the answer began with.
    """
    choices = sorted({choice for mark in marks for choice, _ in mark.before}) or [0]
    found: list[tuple[int, str, int | None, int | None]] = []
    for choice in choices:
        served = first
        at: int | None = 0
        for mark in marks:
            count = dict(mark.before).get(choice)
            if count is None and mark.before:
                continue  # it had ended
            found.append((choice, served, at, count))
            served, at = mark.served, count
        found.append((choice, served, at, None))
    return found
