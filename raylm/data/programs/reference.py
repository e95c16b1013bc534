"""What stands in one process for an object that another one holds: its methods ask over the link (`link.py`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from raylm.data.programs.values import Unsent

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")


class OwnClass(TypeError):
    """A plain value was asked for, and what came is an object of the program's own class."""


class Reference:
    """An object that the other side holds. Operators take a second one like it, never a plain value: what a program's object
    says to what a test expects would be the program's own verdict."""

    raylm_link: Any = None
    raylm_number = -1

    def __init__(self, link: Any, number: int) -> None:
        self.__dict__.update(raylm_link=link, raylm_number=number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return _asked(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _asked(self, "set", name, value)

    def __instancecheck__(self, one: Any) -> bool:
        return hasattr(type(one), "raylm_number") and bool(_asked(self, "is_one", one))

    def __eq__(self, other: Any) -> Any:
        return _asked(self, "eq", other) if isinstance(other, Reference) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return _asked(self, "ne", other) if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return _asked(self, "hash")

    def __bool__(self) -> bool:
        return bool(_asked(self, "bool"))

    def __str__(self) -> str:
        return str(_asked(self, "str"))

    def __repr__(self) -> str:
        return str(_asked(self, "repr"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise Unsent("an object of the program cannot be copied by a test")


def _asked(reference: Any, operation: str, *args: Any, **named: Any) -> Any:
    return reference.raylm_link.ask(operation, reference.raylm_number, *args, **named)


def _of_two(operation: str, turned: bool = False) -> Callable[[Any, Any], Any]:
    def found(self: Any, other: Any) -> Any:
        if not isinstance(other, Reference):
            raise OwnClass(f"an object of the program's own class, where {type(other).__name__} is expected")
        return _asked(other, operation, self) if turned else _asked(self, operation, other)

    return found


def _of_one(operation: str) -> Callable[..., Any]:
    return lambda self, *args, **named: _asked(self, operation, *args, **named)


def _contains(self: Any, one: Any) -> bool:
    if isinstance(one, Reference):
        return bool(_asked(self, "contains", one))
    if not hasattr(type(self), "__iter__"):
        raise OwnClass("an object of the program's own class, where a container is expected")
    return any(each is one or each == one for each in self)


METHODS: dict[str, Callable[..., Any]] = {
    "__call__": _of_one("call"),
    "__getitem__": _of_one("item"),
    "__setitem__": _of_one("put"),
    "__contains__": _contains,
    **{f"__{name}__": _of_one(name) for name in ("iter", "next", "len", "int", "float", "index", "abs", "neg")},
    **{f"__{name}__": _of_two(name) for name in ("lt", "le", "gt", "ge")},
    **{f"__{name.strip('_')}__": _of_two(name) for name in ARITHMETIC},
    # a plain value on the left
    **{f"__r{name.strip('_')}__": _of_two(name, turned=True) for name in ARITHMETIC},
}


@functools.cache
def reference(has: tuple[str, ...]) -> type[Reference]:
    """Of references to objects that have these methods."""
    return type("Reference", (Reference,), {name: METHODS[name] for name in has})


@functools.cache
def like(base: type) -> Callable[[Any, Any, int], Any]:
    """Of values that are like one of Python's, and have attributes of their own."""

    def get(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _asked(self, "get", name)

    kind = type(base.__name__, (base,), {"raylm_link": None, "raylm_number": -1, "__getattr__": get})

    def make(value: Any, link: Any, number: int) -> Any:
        made = kind(value)
        made.__dict__.update(raylm_link=link, raylm_number=number)
        return made

    return make
