"""What a program and its judge say to each other over two pipes: calls of what the other one holds, and what came of them.

    judge                                program
      call f(1, [2])     ---------->       f(1, [2])
      value, or error    <----------       and what it printed, what became of its arguments

Both sides are alike but for what they allow the other one. The standard library alone.
"""

from __future__ import annotations

import io
import json
import operator
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

from raylm.data.programs.reference import ARITHMETIC, METHODS, like, reference
from raylm.data.programs.values import decode, encode, error_named, renew

MOST_BYTES = 1 << 28
_CHANGED = ("list", "dict", "set", "bytearray", "deque", "Counter", "OrderedDict", "defaultdict")
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda on, *args, **named: on(*args, **named),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "put": operator.setitem,
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
    "hash": hash,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "index": operator.index,
    "abs": abs,
    "neg": operator.neg,
    "is_one": lambda on, one: isinstance(one, on),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", *ARITHMETIC)},
}


class Gone(BaseException):
    """The other side has ended, or says what makes no sense. No `except Exception` of a test hides it."""


class Link:
    """One side. Its `may_have` and `may_do` say what the other one is allowed."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._mine: list[Any] = []
        self._places: dict[int, int] = {}
        self._errors: dict[int, type[Exception]] = {}
        self._theirs: dict[tuple[int, tuple[str, ...]], Any] = {}
        self.gone = ""
        """Why the other side can be asked no more; "" while it can."""

    def may_have(self, value: Any) -> None:
        """Raises Unsent where the other side may not have a reference to an object."""

    def may_do(self, operation: str, on: Any, args: list[Any]) -> None:
        """Raises Unsent where the other side may not do this with an object that it has a reference to."""

    def name_of(self, value: Any) -> list[str] | None:
        """The name of a function of Python's own under which the other side has it too; None where it is told none."""
        return None

    def named(self, of: str, name: str) -> Any:
        """The function of Python's own that the other side named. Raises ValueError where none may be named."""
        raise ValueError("no function may be named here")

    def known_error(self, module: str, name: str) -> type[Exception] | None:
        """The exception that both sides have under this name; None where it is the other side's alone."""
        return None

    def ask(self, operation: str, on: int, *args: Any, **named: Any) -> Any:
        """What came of an operation on the other side's object; raises what it raised, and Gone."""
        table = {"do": operation, "on": on, "args": [self.told(each) for each in args]}
        self.send({**table, "named": {name: self.told(each) for name, each in named.items()}})
        while "do" in (answer := self.receive()):
            self.serve(answer)
        try:
            if answer.get("printed"):
                sys.stdout.write(str(answer["printed"]))
            for old, new in zip([*args, *named.values()], answer.get("args", ()), strict=False):
                if new is not None:
                    renew(old, self.heard(new))
            if "error" in answer:
                raised = self._raised(answer)
            elif "argument" in answer:
                return args[answer["argument"]]
            else:
                return self.heard(answer["value"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as cause:
            raise self._over(f"an answer that makes no sense: {cause}") from None
        raise raised

    def serve(self, asked: dict[str, Any]) -> None:
        """Do what the other side asks, and say what came of it."""
        try:
            on, name = self._mine[asked["on"]], asked["do"]
            args = [self.heard(each) for each in asked["args"]]
            named = {key: self.heard(each) for key, each in asked["named"].items()}
            do = OPERATIONS[name]
            self.may_do(name, on, args)
        except (KeyError, IndexError, TypeError, ValueError) as cause:
            return self.send({"error": ["TypeError"], "said": str(cause)})
        before, shown = sys.stdout, io.StringIO()
        sys.stdout = shown
        try:
            value = do(on, *args, **named)
            same = next((at for at, each in enumerate(args) if each is value and type(value).__name__ in _CHANGED), None)
            answer = {"argument": same} if same is not None else {"value": self.told(value)}
        except (Exception, SystemExit, KeyboardInterrupt) as cause:
            answer = self._error(cause)
        finally:
            sys.stdout = before
        states = [self._state(each) for each in (*args, *named.values())] if name == "call" else []
        return self.send({**answer, "printed": shown.getvalue(), "args": states})

    def told(self, value: Any) -> Any:
        """A value as the other side is told it."""
        return encode(value, self._refer)

    def heard(self, told: Any) -> Any:
        """A value that the other side told. Raises ValueError, KeyError, TypeError where it is none."""
        return decode(told, self._resolve)

    def send(self, table: dict[str, Any]) -> None:
        """Raises Gone."""
        content = json.dumps(table).encode()
        content = struct.pack("<I", len(content)) + content
        try:
            while content:
                content = content[os.write(self._writes, content) :]
        except OSError:
            raise self._over("it has ended") from None

    def receive(self) -> dict[str, Any]:
        """Raises Gone."""
        try:
            (size,) = struct.unpack("<I", self._bytes(4))
            found = json.loads(self._bytes(size)) if size < MOST_BYTES else None
        except (ValueError, RecursionError, OSError, MemoryError) as cause:
            raise self._over(f"what it says cannot be read: {type(cause).__name__}") from None
        if not isinstance(found, dict):
            raise self._over("what it says makes no sense")
        return found

    def _over(self, why: str) -> Gone:
        self.gone = self.gone or why
        return Gone(why)

    def _bytes(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._reads, min(size, 1 << 20))
            if not part:
                raise self._over("it has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _state(self, value: Any) -> Any:
        return self.told(value) if type(value).__name__ in _CHANGED else None

    def _refer(self, value: Any) -> dict[str, Any]:
        if hasattr(type(value), "raylm_number") and value.raylm_link is self:
            return {"yours": value.raylm_number}
        if name := self.name_of(value):
            return {"function": name}
        self.may_have(value)
        if isinstance(value, type) and issubclass(value, Exception):
            return {"error_class": self._chain(value)}
        has = [name for name in METHODS if hasattr(type(value), name)]
        return {"mine": self._number(value), "has": has}

    def _number(self, value: Any) -> int:
        # held, so that no other object gets its address
        if id(value) not in self._places:
            self._places[id(value)] = len(self._mine)
            self._mine.append(value)
        return self._places[id(value)]

    def _chain(self, kind: type) -> list[Any]:
        """Its own classes, the nearest first, and the first of Python's."""
        own = [each for each in kind.__mro__ if each.__module__ != "builtins"]
        python = next(each.__name__ for each in kind.__mro__ if each.__module__ == "builtins")
        return [*([self._number(each), each.__name__, each.__module__] for each in own), python]

    def _error(self, cause: BaseException) -> dict[str, Any]:
        try:
            said = str(cause)
            self.may_have(cause)
        except (Exception, SystemExit, KeyboardInterrupt):
            # the nearest of Python's own is all that the other side learns
            return {"error": self._chain(type(cause))[-1:], "said": ""}
        try:
            given = {"given": [self.told(each) for each in cause.args]}
        except (Exception, SystemExit, KeyboardInterrupt):
            given = {}
        return {"error": self._chain(type(cause)), "said": said, "on": self._number(cause), **given}

    def _raised(self, answer: dict[str, Any]) -> Exception:
        kind, said = self._error_class(answer["error"]), str(answer.get("said", ""))
        given = [self.heard(each) for each in answer.get("given", [said])]
        try:
            # what its own __init__ would do was done on the other side
            raised: Exception = kind(*given) if kind.__module__ == "builtins" else kind.__new__(kind, *given)
        except (TypeError, ValueError, OverflowError):
            raised = Exception(said)
        raised.__dict__["raylm_said"] = said
        if "on" in answer:
            raised.__dict__["raylm_on"] = int(answer["on"])
        return raised

    def _error_class(self, chain: list[Any]) -> type[Exception]:
        found = error_named(chain[-1:])
        for number, name, module in reversed(chain[:-1]):
            if number not in self._errors:

                def get(instance: Any, attribute: str, link: Link = self) -> Any:
                    if attribute.startswith("_") or "raylm_on" not in instance.__dict__:
                        raise AttributeError(attribute)
                    return link.ask("get", instance.__dict__["raylm_on"], attribute)

                def say(instance: Any) -> str:
                    said = instance.__dict__.get("raylm_said")
                    return Exception.__str__(instance) if said is None else said

                base = self.known_error(str(module), str(name)) or found
                self._errors[number] = type(str(name), (base,), {"__getattr__": get, "__str__": say})
            found = self._errors[number]
        return found

    def _resolve(self, told: dict[str, Any], plain: Any) -> Any:
        if "yours" in told:
            return self._mine[told["yours"]]
        if "function" in told:
            return self.named(*told["function"])
        if "error_class" in told:
            return self._error_class(told["error_class"])
        number, has = told["mine"], tuple(each for each in METHODS if each in told["has"])
        if plain is not None:
            return like(type(plain))(plain, self, number)
        # one object is one reference: `is` says what it says where the object is
        if (number, has) not in self._theirs:
            self._theirs[number, has] = reference(has)(self, number)
        return self._theirs[number, has]
