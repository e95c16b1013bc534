"""Paths into a row: `data.turns[0].text`, dots for keys and brackets for places in a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from raylm.core.errors import DataError

_STEP = re.compile(r"\[(-?\d+)\]|(?:^|\.)([^.\[\]]+)")
_SHOWN, _DEPTH = 50, 4


@cache
def steps_of(path: str) -> tuple[str | int, ...]:
    """Keys and places of a path. Raises DataError where it is none."""
    steps, at = [], 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise DataError(f"{path!r} is no path: write data.turns[0].text, or a template in which {{{{ ... }}}} stands")
        steps.append(step[2] if step[1] is None else int(step[1]))
        at = step.end()
    return tuple(steps)


def read_path(row: Mapping[str, Any], path: str) -> Any:
    """What stands there; None behind a null. A column of exactly this name comes first, and JSON text on the way is decoded.

    Raises:
        DataError(missing_column): the row has no such column, key or place.
    """
    if path in row:
        return row[path]
    value: Any = row
    for step in steps_of(path):
        if isinstance(value, str):
            value = decoded(value)
        if value is None:
            return None
        there = isinstance(step, int) and isinstance(value, (list, tuple)) and -len(value) <= step < len(value)
        if not there and not (isinstance(value, Mapping) and step in value):
            raise DataError(f"missing_column: {path}")
        value = cast(Any, value)[step]
    return value


def paths_of(row: Mapping[str, Any]) -> list[str]:
    """Paths to what a row holds, the first place of each list, at most 50 of them."""
    found: list[str] = []
    for path in _paths(row, "", 0):
        found.append(path)
        if len(found) == _SHOWN:
            break
    return found


def _paths(value: Any, before: str, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping) and value and depth < _DEPTH:
        for key, inner in value.items():
            yield from _paths(inner, f"{before}.{key}" if before else str(key), depth + 1)
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], (Mapping, list, tuple)) and depth < _DEPTH:
        yield from _paths(value[0], f"{before}[0]", depth)
    else:
        yield before


def decoded(text: str) -> Any:
    """What JSON text of an object or a list holds; any other text as it is."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        return text
