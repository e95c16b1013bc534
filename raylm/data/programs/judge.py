"""Statements that judge a program, run apart from it: in a process that the program cannot reach, with copies of its values.

The judge's Python, its `abs`, `isinstance`, `==` and its `math` are its own, whatever the program made of its. Only what a test
takes from the program's names under a name that nothing else has is the program's. The standard library alone.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

from raylm.data.programs.link import Gone, Link
from raylm.data.programs.values import CHANGED, Unsent, function_name, function_named, renew

# fmt: off
_MODULES = (
    "abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "copy", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator", "random", "re", "string",
    "statistics", "struct", "textwrap", "time", "typing", "unicodedata", "zlib",
)
# fmt: on
_LIBRARIES = ("numpy", "pandas", "scipy", "sympy", "torch")
_ALIASES = {"np": "numpy", "pd": "pandas"}
NAMES = 0
"""Number of the program's names among what it holds."""


class Judge(Link):
    """The side of the statements. The program may call their functions, and use instances of their classes."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__(reads, writes)
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._shown: dict[str, Any] = {}
        """Of these names the program's plain values, which its functions may change."""

    def ask(self, operation: str, on: int, *args: Any, **named: Any) -> Any:
        """As `Link.ask`; what the program's own variables hold is seen anew behind it."""
        try:
            return super().ask(operation, on, *args, **named)
        finally:
            if on != NAMES and not self.gone:
                for name in list(self._shown):
                    self._look_again(name)

    def _look_again(self, name: str) -> None:
        found = super().ask("call", NAMES, name)
        if found is None or self.names.get(name) is not self._shown[name]:
            # the statements have another value of this name by now
            del self._shown[name]
        elif type(found[1]) is type(self._shown[name]) and isinstance(found[1], CHANGED):
            renew(self._shown[name], found[1])
        else:
            self.names[name] = self._shown[name] = found[1]

    def name_of(self, value: Any) -> list[str] | None:
        """Of functions that only give a value. A program names none to its judge, where one that leads on would run."""
        return function_name(value)

    def may_have(self, value: Any) -> None:
        """Functions and classes of the statements, instances of these, and iterators."""
        function = value.__func__ if isinstance(value, types.MethodType) else value
        if isinstance(function, types.FunctionType):
            fine = function.__globals__ is self.names
        else:
            fine = self._is_own(value) or isinstance(value, Iterator)
        if not fine:
            raise Unsent(f"a {type(value).__name__} cannot be given to a program by its tests")

    def may_do(self, operation: str, on: Any, args: list[Any]) -> None:
        """Attributes of functions and generators lead to everything; those of instances, without "_", to what tests put there."""
        if operation in ("get", "set") and (not self._is_own(on) or str(args[0]).startswith("_")):
            raise Unsent(f"{args[0]} is private")

    def known_error(self, module: str, name: str) -> type[Exception] | None:
        """An exception of the standard library, which is the same one in tests."""
        if module.partition(".")[0] not in _MODULES:
            return None
        found = getattr(importlib.import_module(module), name, None)
        return found if isinstance(found, type) and issubclass(found, Exception) else None

    def _is_own(self, value: Any) -> bool:
        kind = value if isinstance(value, type) else type(value)
        return kind.__module__ == "__main__"

    def judge(self, checks: list[str]) -> list[str]:
        """Of each check "" or the exception that it raised. Raises Gone where the program ended meanwhile."""
        self._take(checks)
        found = []
        for check in checks:
            try:
                exec(compile(check, "<check>", "exec"), self.names)
                found.append("")
            except (Exception, SystemExit, KeyboardInterrupt) as cause:
                found.append(type(cause).__name__)
            if self.gone:
                # a bare `except` is no way round it
                raise Gone(self.gone)
        return found

    def _take(self, checks: list[str]) -> None:
        """The program's names that the checks use."""
        used, dotted = _used(checks)
        told = {name: found for name in sorted(used) if (found := self.ask("call", NAMES, name)) is not None}
        shared = {name for name in dotted if name in (*_MODULES, *_LIBRARIES, *_ALIASES)}
        own = {name for name, (how, _) in told.items() if how == "value"} - shared
        shadows = {name for name in told if hasattr(builtins, name)}
        # a program may have taken the function that is tested from a module
        tested = (own | {name for name, (how, what) in told.items() if how == "import" and ":" in str(what)}) - shadows
        for name, (how, what) in told.items():
            if name in own:
                # what a test calls beside the function that it tests is Python's; one that is tested may be called `sum`
                if name not in shadows or not tested:
                    self.names[name] = what
                    if not isinstance(what, type) and not hasattr(type(what), "raylm_number"):
                        self._shown[name] = what
                continue
            # a module, or what one has, is imported here; `from datetime import datetime` is no module
            of_its_name = how == "import" and what == f"{name}:{name}"
            place = _ALIASES.get(name, name) if name in _ALIASES or (name in shared and not of_its_name) else str(what)
            module, _, of_it = place.partition(":")
            if _may_import(module, of_it):
                found = importlib.import_module(module)
                self.names[name] = getattr(found, of_it) if of_it else found


class Judged(Link):
    """The side of the program."""

    def __init__(self, reads: int, writes: int, names: dict[str, Any]) -> None:
        super().__init__(reads, writes)
        self._names = names
        self._number(self._told)

    def serve_all(self) -> None:
        """Until the judge has ended."""
        self.send({"ready": True})
        while True:
            self.serve(self.receive())

    def named(self, of: str, name: str) -> Any:
        """As its judge named it."""
        return function_named(of, name)

    def _told(self, name: str) -> tuple[str, Any] | None:
        if name not in self._names:
            return None
        value = self._names[name]
        if isinstance(value, types.ModuleType):
            return "import", value.__name__
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            module, own = value.__module__ or "", value.__qualname__
            if _may_import(module, own) and getattr(sys.modules.get(module), own, None) is value:
                return "import", f"{module}:{own}"
        return "value", value


def _may_import(module: str, name: str) -> bool:
    """Of the modules that tests take from a program, those that have nothing that equals everything (as `unittest.mock` has)."""
    if not name:
        return module.partition(".")[0] in (*_MODULES, *_LIBRARIES) and "._" not in module
    return module in _MODULES and not name.startswith("_") and name.isidentifier()


def _used(checks: list[str]) -> tuple[set[str], set[str]]:
    """Names in the checks, and those of them that a dot follows everywhere."""
    names: list[str] = []
    dotted: list[str] = []
    for check in checks:
        try:
            tree = ast.parse(check)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        names += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        dotted += [n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return set(names), {name for name in dotted if names.count(name) == dotted.count(name)}


def ended(status: int) -> str:
    """How a process ended, as `os.waitpid` has it: "", time_out, exit 1, SIGSEGV, ..."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit {code}" if code else ""
    name = signal.Signals(-code).name
    return "time_out" if name in ("SIGXCPU", "SIGKILL") else name


__all__ = ["Gone", "Judge", "Judged", "ended"]
