"""Functions that Go's text/template knows by itself, and Ollama's `json`; strings are UTF-8 bytes to them, as in Go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from raylm.core.errors import DataError

_VERB = re.compile(r"%(?:%|(?P<flags>[-+ 0#]*)(?P<width>\d*)(?:\.(?P<precision>\d*))?(?P<verb>.))", re.DOTALL)
_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Struct(dict[str, Any]):
    """A Go struct: asked for a field that it has not, a template fails, where a map gives nothing."""


def truth(value: Any) -> bool:
    """What `if`, `with`, `and`, `or` and `not` make of a value: empty ones are false, structs are true."""
    return True if isinstance(value, Struct) else bool(value)


def printed(value: Any) -> str:
    """A value as fmt.Print writes it. Raises DataError for what is not covered: structs."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, list):
        return f"[{' '.join(map(_inside, value))}]"
    if isinstance(value, dict) and not isinstance(value, Struct):
        return f"map[{' '.join(f'{key}:{_inside(value[key])}' for key in sorted(value))}]"
    raise DataError(f"how Go prints a {type(value).__name__} is not covered", next="print its fields, or use json")


def _inside(value: Any) -> str:
    return "<nil>" if value is None else printed(value)


def data(text: str) -> bytes:
    """A string as Go holds it."""
    return text.encode("utf-8", "surrogateescape")


def text_of(raw: bytes) -> str:
    """Bytes as a string; a part of a character stays what it is until its other part follows."""
    return raw.decode("utf-8", "surrogateescape")


def _kind(value: Any) -> str:
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "string"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "other")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise DataError("missing argument for comparison")
    for other in others:
        if _kind(first) != _kind(other):
            if first is not None and other is not None:
                raise DataError(f"incompatible types for comparison: {first!r} and {other!r}")
        elif _kind(first) == "other" and (isinstance(first, (list, dict)) or isinstance(other, (list, dict))):
            raise DataError("non-comparable types: lists and maps have no ==")
        elif first == other:
            return True
    return False


def _less(first: Any, other: Any) -> bool:
    if _kind(first) != _kind(other):
        raise DataError(f"incompatible types for comparison: {first!r} and {other!r}")
    if _kind(first) in ("bool", "other"):
        raise DataError(f"invalid type for comparison: {first!r}")
    return data(first) < data(other) if isinstance(first, str) else first < other


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(data(value))
    if isinstance(value, (list, dict)) and not isinstance(value, Struct):
        return len(value)
    raise DataError(f"len of {value!r}")


def _position(index: Any, length: int) -> int:
    if _kind(index) != "int":
        raise DataError(f"cannot index with {index!r}")
    if not 0 <= index < length:
        raise DataError(f"index out of range: {index}")
    return index


def _index(value: Any, *indices: Any) -> Any:
    for index in indices:
        if value is None:
            raise DataError("index of untyped nil")
        if isinstance(value, str):
            value = data(value)[_position(index, len(data(value)))]
        elif isinstance(value, list):
            value = value[_position(index, len(value))]
        elif isinstance(value, dict) and not isinstance(value, Struct) and isinstance(index, str):
            value = value.get(index)
        else:
            raise DataError(f"cannot index {type(value).__name__} with {index!r}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (str, list)) or len(bounds) > 2:
        raise DataError(f"cannot slice {value!r}")
    raw: Any = data(value) if isinstance(value, str) else value
    ends = [*(_position(bound, len(raw) + 1) for bound in bounds)]
    start, end = (ends + [0, len(raw)][len(ends) :])[:2]
    if start > end:
        raise DataError(f"invalid slice index: {start} > {end}")
    return text_of(raw[start:end]) if isinstance(value, str) else raw[start:end]


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


def _print(*values: Any) -> str:
    """Operands with a space between two of them where neither is a string."""
    said = ""
    for at, value in enumerate(values):
        apart = at and not isinstance(value, str) and not isinstance(values[at - 1], str)
        said += (" " if apart else "") + _inside(value)
    return said


def _printf(form: Any, *values: Any) -> str:
    if not isinstance(form, str):
        raise DataError(f"printf wants a format, got {form!r}")
    left = list(values)

    def write(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if not left:
            raise DataError(f"{form!r} asks for more values than there are")
        return _padded(found, _verb(found["verb"], left.pop(0), found["precision"]))

    said = _VERB.sub(write, form)
    if left:
        raise DataError(f"{form!r} leaves {len(left)} values over")
    return said


def _verb(verb: str, value: Any, precision: str | None) -> str:
    kind = _kind(value)
    if verb in "sv" and kind == "string":
        return value if precision is None else value[: int(precision or 0)]
    if precision is None and (verb == "v" or (verb == "d" and kind == "int") or (verb == "t" and kind == "bool")):
        return _inside(value)
    if verb == "q" and kind == "string" and precision is None and value.isascii() and value.isprintable():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if verb == "c" and kind == "int":
        return chr(value)
    raise DataError(f"printf of %{verb} and {value!r} is not covered")


def _padded(found: re.Match[str], said: str) -> str:
    flags, width = found["flags"], int(found["width"] or 0)
    if set(flags) - {"-"}:
        raise DataError(f"the flags {flags!r} of printf are not covered")
    return said.ljust(width) if "-" in flags else said.rjust(width)


def _json(value: Any) -> str:
    """encoding/json's Marshal: no spaces, maps sorted, structs in their own order, <, > and & escaped."""
    said = json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: _HTML[found[0]], said)


def _sorted(value: Any) -> Any:
    if isinstance(value, list):
        return [_sorted(each) for each in value]
    if not isinstance(value, dict):
        return value
    keys = value if isinstance(value, Struct) else sorted(value)
    return {key: _sorted(value[key]) for key in keys}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and, "or": _or, "not": lambda value: not truth(value), "len": _len, "index": _index, "slice": _slice,
    "print": _print, "println": lambda *values: " ".join(map(_inside, values)) + "\n", "printf": _printf, "json": _json,
    "eq": _equal, "ne": lambda first, other: not _equal(first, other), "lt": _less,
    "le": lambda first, other: _less(first, other) or _equal(first, other),
    "gt": lambda first, other: not _less(first, other) and not _equal(first, other),
    "ge": lambda first, other: not _less(first, other),
}  # fmt: skip
