"""Values on their way between a program and its judge, as JSON: plain ones as what they are, of all others a reference.

What comes from a program is never code: a value of a class of its own stays where it is, and the judge holds a reference to it.
The standard library alone.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import sys
from collections.abc import Callable
from typing import Any

LONG_BITS = 2000
"""Integers of more are told in hexadecimals, which take no time that grows with their square."""
SHARED = {"builtins", "collections", "datetime", "decimal", "fractions"}
"""Modules whose classes both sides have."""
_BASES: tuple[Any, ...] = (int, float, str, bytes, tuple, list, dict, set, frozenset)
_ARRAYS = "biufcSU"
CHANGED = (list, dict, set, bytearray, collections.deque)
"""What a call may have changed in place."""

# fmt: off
_FUNCTIONS = {
    "builtins": {
        "abs", "all", "any", "ascii", "bin", "chr", "divmod", "hash", "hex", "len", "max", "min", "oct", "ord", "pow", "repr",
        "round", "sorted", "sum",
    },
    "operator": {
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "and_", "or_", "xor", "not_", "truth",
        "eq", "ne", "lt", "le", "gt", "ge", "contains", "getitem", "concat",
    },
}
# fmt: on
"""Functions that tests may give to a program, by module; those of `math` too."""
_METHODS_OF = (str, int, float, bytes, tuple, list, dict, set, frozenset)


class Unsent(TypeError):
    """A value that does not go to the other side."""


def encode(value: Any, refer: Callable[[Any], dict[str, Any]]) -> Any:
    """`value` as JSON.

    Args:
        refer: what stands for one that is not plain; may raise Unsent.
    """
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if value.bit_length() <= LONG_BITS else {"int": hex(value)}
    if kind is list:
        return [encode(each, refer) for each in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encode(each, refer) for each in value]}
    if kind is collections.defaultdict:
        pairs = [[encode(key, refer), encode(each, refer)] for key, each in value.items()]
        return {"defaultdict": [encode(value.default_factory, refer), pairs]}
    if kind in (dict, collections.Counter, collections.OrderedDict):
        return {kind.__name__: [[encode(key, refer), encode(each, refer)] for key, each in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind in (complex, range, slice):
        parts = (value.real, value.imag) if kind is complex else (value.start, value.stop, value.step)
        return {kind.__name__: [encode(each, refer) for each in parts]}
    if kind is collections.deque:
        return {"deque": [[encode(each, refer) for each in value], value.maxlen]}
    if kind in (type({}.keys()), type({}.items())):
        return {kind.__name__: [encode(each, refer) for each in value]}
    if kind in (decimal.Decimal, fractions.Fraction):
        return {kind.__name__: str(value)}
    if kind in (datetime.date, datetime.time, datetime.datetime):
        return {kind.__name__: value.isoformat()}
    if kind is datetime.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if (
        isinstance(value, type)
        and value.__module__ in SHARED
        and getattr(sys.modules[value.__module__], value.__qualname__, 0) is value
    ):
        return {"class": [value.__module__, value.__qualname__]}
    if array := _array(value):
        return {"array": array}
    reference = refer(value)
    if base := next((each for each in _BASES if isinstance(value, each)), None):
        return {"like": [encode(base(value), refer), reference]}
    return reference


def decode(told: Any, resolve: Callable[[dict[str, Any], Any], Any]) -> Any:
    """The value that was told.

    Args:
        resolve: what a reference, and the plain value that it is like, stands for.

    Raises:
        ValueError: it is none.
    """
    if told is None or isinstance(told, bool | str | float | int):
        return told
    if isinstance(told, list):
        return [decode(each, resolve) for each in told]
    if not isinstance(told, dict):
        raise ValueError("no value")
    for kind, inner in told.items():
        if kind == "like":
            return resolve(inner[1], decode(inner[0], resolve))
        if kind == "array":
            return _as_array(*inner)
        if kind == "class":
            if inner[0] not in SHARED:
                raise ValueError(f"no class of {inner[0]}")
            found = getattr(importlib.import_module(inner[0]), inner[1])
            if not isinstance(found, type):
                raise ValueError("no class")
            return found
        if kind in _PLAIN:
            return _PLAIN[kind](decode(inner, resolve))
    return resolve(told, None)


def _pairs(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda pairs: make(dict(pairs))


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": _pairs(dict),
    "Counter": _pairs(collections.Counter),
    "OrderedDict": _pairs(collections.OrderedDict),
    "defaultdict": lambda parts: collections.defaultdict(parts[0], dict(parts[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "slice": lambda parts: slice(*parts),
    "deque": lambda parts: collections.deque(*parts),
    "dict_keys": lambda found: dict.fromkeys(found).keys(),
    "dict_items": lambda found: dict(found).items(),
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
}


def _array(value: Any) -> list[Any] | None:
    """A NumPy array or scalar; None for anything else, and where NumPy was never imported."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return None
    if value.dtype.kind not in _ARRAYS:
        return None
    return [value.dtype.str, list(value.shape), value.tobytes().hex()]


def _as_array(kind: str, shape: list[int], content: str) -> Any:
    import numpy

    if kind[1:2] not in _ARRAYS:
        raise ValueError(f"no array of {kind}")
    # a scalar has no shape
    return numpy.frombuffer(bytes.fromhex(content), dtype=kind).reshape(shape).copy()[()]


def function_name(value: Any) -> list[str] | None:
    """Module or type, and name, of a function of Python's own that tests may give to a program; None for anything else."""
    kind = type(value).__name__
    if kind == "method_descriptor" and value.__objclass__ in _METHODS_OF and not value.__name__.startswith("_"):
        return [value.__objclass__.__name__, value.__name__]
    if kind == "builtin_function_or_method":
        module, name = (getattr(value, "__module__", "") or "").lstrip("_"), value.__name__
        known = module == "math" or name in _FUNCTIONS.get(module, ())
        return [module, name] if known and getattr(importlib.import_module(module), name, None) is value else None
    return None


def function_named(of: str, name: str) -> Any:
    """What `function_name` named. Raises ValueError where it names nothing so."""
    base = next((each for each in _METHODS_OF if each.__name__ == of), None)
    found = getattr(base or importlib.import_module(of if of == "math" or of in _FUNCTIONS else "math"), name, None)
    if found is None or function_name(found) != [of, name]:
        raise ValueError("no function")
    return found


def renew(old: Any, new: Any) -> None:
    """Make what a container holds that of another one, where it is of a kind that a call may have changed."""
    if isinstance(old, list | bytearray) and isinstance(new, type(old)):
        old[:] = new  # type: ignore[index]
    elif isinstance(old, dict | set) and isinstance(new, dict | set):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque) and isinstance(new, collections.deque):
        old.clear()
        old.extend(new)


def error_named(names: list[Any]) -> type[Exception]:
    """The nearest of Python's own exceptions in a list of names; Exception where there is none."""
    for name in names:
        found = getattr(builtins, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return Exception
