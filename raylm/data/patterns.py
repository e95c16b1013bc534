"""Regular expressions in configs, matched against what models write: with a deadline, for there are texts that some of them never
come to an end with (`(a+)+b`)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import AfterValidator

from raylm.core.errors import DataError

DEADLINE_S = 5.0
"""Seconds for one text."""


class Endless(DataError):
    """An expression came to no end with a text."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as cause:
        raise ValueError(f"not a regular expression: {cause}") from cause
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression of Python's `re`."""


def _takes(pattern: str) -> str:
    try:
        taking = has_group(pattern)
    except re.error as cause:
        raise ValueError(f"is no regular expression: {cause}") from cause
    if not taking:
        raise ValueError("has no group that takes the number out")
    return pattern


TakingPattern = Annotated[str, AfterValidator(_takes)]
"""One whose first group takes something out of a text."""


def has_group(pattern: str) -> bool:
    """Whether the expression takes something out of a text."""
    return re.compile(pattern).groups > 0


_BRACE = re.compile(r"(\\.)|\{(?!(?:\d+|\d*,\d*)\})", re.DOTALL)


def literal_braces(pattern: str) -> str:
    """The expression with `\\{` for each brace that begins no number of repetitions: to `re` it is itself then, too, to `regex`
    `c{d}` would be a `c` that may be missing (https://github.com/mrabarnett/mrab-regex#approximate-fuzzy-matching)."""
    return _BRACE.sub(lambda found: found[1] or "\\{", pattern)


def matches_whole(pattern: str, text: str) -> bool:
    """Whether all of `text` matches; `.` matches line ends too. Raises Endless."""
    import regex

    with _deadline(pattern, text):
        return regex.fullmatch(literal_braces(pattern), text, regex.DOTALL | regex.VERSION0, timeout=DEADLINE_S) is not None


def last_match(pattern: str, text: str) -> Any:
    """The last match in `text`, None where there is none. Raises Endless."""
    import regex

    with _deadline(pattern, text):
        found = deque(regex.finditer(literal_braces(pattern), text, regex.VERSION0, timeout=DEADLINE_S), maxlen=1)
    return found[0] if found else None


@contextmanager
def _deadline(pattern: str, text: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Endless(
            f"the expression {pattern!r} came to no end with a text of {len(text)} letters within {DEADLINE_S:g} s",
            next="write it without a repetition within a repetition, such as (a+)+",
        ) from None
