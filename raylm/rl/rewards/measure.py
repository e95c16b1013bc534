"""What a reward gave back, as scores of one finite float each, or in words why it is none."""

from __future__ import annotations

import asyncio
from typing import Any

from raylm.rl.types import Score, Unscored

LARGEST = 3e38
"""Beyond it a score is no float32, which advantages are."""
SHOWN = 300
"""Letters of an exception, and of a reason, that are passed on."""


def measured(given: Any) -> Score | Unscored:
    """What a reward gave for one completion, as a Score: a Score, a pair of number and reason, or a number. Numbers are
    those of Python, Decimal and Fraction, truth values, and whatever holds one number (numpy, torch)."""
    value: Any = given
    reason: Any = ""
    if isinstance(given, Unscored):
        return Unscored(str(given.kind), shown(given.why))
    if isinstance(given, tuple) and len(given) == 2 and (isinstance(given, Score) or isinstance(given[1], str)):
        value, reason = given
    if hasattr(value, "dtype") and hasattr(value, "item"):
        if getattr(value, "size", 1) == 0 or not _is_single(value):
            return Unscored("no_number", f"a reward returned a {type(value).__name__} that holds not one number")
        value = value.item()
    if isinstance(value, (str, bytes, bytearray)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        if asyncio.iscoroutine(value):
            value.close()  # nobody will wait for it
        return Unscored("no_number", f"a reward returned {_what(value)} where a number is needed")
    try:
        return finite(float(value), shown(reason))
    except OverflowError:
        return Unscored("not_finite", "a reward's score is too large for a float")


def measured_each(given: Any, count: int) -> list[Score | Unscored]:
    """What a reward gave for `count` completions at once. One that gave another number of things has scored none of them."""
    if hasattr(given, "tolist") and getattr(given, "ndim", 0) == 1:
        given = given.tolist()  # numpy, torch
    if not isinstance(given, (list, tuple)) or isinstance(given, (Score, Unscored)):
        if asyncio.iscoroutine(given):
            given.close()
        return [Unscored("no_number", f"a reward returned {_what(given)} where a list of {count} numbers is needed")] * count
    if len(given) != count:
        return [Unscored("wrong_length", f"a reward returned {len(given)} scores for {count} completions")] * count
    return [measured(one) for one in given]


def finite(value: float, reason: str) -> Score | Unscored:
    """A Score where `value` is a finite float32."""
    if abs(value) <= LARGEST:
        return Score(value, reason)
    return Unscored("not_finite", f"a score is {value:g}, no finite number")


def shown(reason: Any) -> str:
    """A reason, short, without half surrogate pairs, which no file could hold."""
    return str(reason)[:SHOWN].encode("utf-8", "replace").decode()


def in_words(cause: BaseException) -> str:
    """Type and message of an exception, also of one that cannot say it."""
    try:
        said = str(cause).strip()
    except (Exception, SystemExit) as inner:
        said = f"(its message cannot be read: {type(inner).__name__})"
    return f"{type(cause).__name__}{': ' if said else ''}{shown(said)}"


def _is_single(value: Any) -> bool:
    shape = getattr(value, "shape", ())
    return all(size == 1 for size in shape)


def _what(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
