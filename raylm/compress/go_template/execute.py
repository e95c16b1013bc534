"""Runs a Go template on data, as text/template's Execute does with `missingkey=zero`, which Ollama sets."""

from __future__ import annotations

from typing import Any

from raylm.compress.go_template.functions import FUNCTIONS, Struct, data, printed, truth
from raylm.compress.go_template.parser import (
    Action,
    Body,
    Branch,
    Call,
    Chain,
    Constant,
    Dot,
    Field,
    FunctionNode,
    Jump,
    Nil,
    Parser,
    Pipe,
    TextNode,
    Variable,
)
from raylm.core.errors import DataError

DEPTH = 100_000
"""Templates within templates, before Go gives up."""
_NONE = object()


class GoTemplate:
    """One parsed template. Maps are dicts, structs `Struct`, slices lists; numbers are int and float."""

    def __init__(self, source: str) -> None:
        """Raises ConfigError where Go would refuse it, or it uses what is not covered (html, js, urlquery, call, complex)."""
        self.source, self.templates = source, Parser(source).templates

    def render(self, values: Any) -> str:
        """What Execute writes. Raises DataError where it would fail."""
        run = _Run(self.templates)
        run.template("", values)
        return data("".join(run.out)).decode()


class _Jumped(Exception):
    """`break` or `continue`, on its way to the loop."""


class _Run:
    def __init__(self, templates: dict[str, Body]) -> None:
        self.templates, self.out = templates, []
        self._variables: list[list[Any]] = []
        self._depth = 0

    def template(self, name: str, dot: Any) -> None:
        """Write the template of this name, with variables of its own."""
        if name not in self.templates:
            raise DataError(f"template {name!r} not defined")
        self._depth += 1
        if self._depth > DEPTH:
            raise DataError("exceeded maximum template depth")
        kept, self._variables = self._variables, [["$", dot]]
        self._body(self.templates[name], dot)
        self._variables, self._depth = kept, self._depth - 1

    def _body(self, nodes: Body, dot: Any) -> None:
        for node in nodes:
            if isinstance(node, TextNode):
                self.out.append(node.text)
            elif isinstance(node, Action):
                value = self._pipe(node.pipe, dot)
                if not node.pipe.variables:
                    self.out.append(printed(value))
            elif isinstance(node, Call):
                self.template(node.name, None if node.pipe is None else self._pipe(node.pipe, dot))
            elif isinstance(node, Jump):
                raise _Jumped(node.type)
            else:
                known = len(self._variables)
                try:
                    self._branch(node, dot)
                finally:
                    del self._variables[known:]

    def _branch(self, node: Branch, dot: Any) -> None:
        if node.type == "range":
            return self._range(node, dot)
        value = self._pipe(node.pipe, dot)
        if truth(value):
            return self._body(node.body, value if node.type == "with" else dot)
        return self._body(node.otherwise, dot)

    def _range(self, node: Branch, dot: Any) -> None:
        value = self._pipe(node.pipe._replace(variables=()), dot)
        if value is None:
            items: list[tuple[Any, Any]] = []
        elif isinstance(value, list):
            items = list(enumerate(value))
        elif isinstance(value, dict) and not isinstance(value, Struct):
            items = [(key, value[key]) for key in sorted(value)]
        else:
            raise DataError(f"range can't iterate over {value!r}")
        if not items:
            return self._body(node.otherwise, dot)
        known = len(self._variables)
        for key, item in items:
            names = node.pipe.variables
            for name, given in zip(names, (key, item) if len(names) > 1 else (item,), strict=False):
                self._set(name, given, node.pipe.assigns)
            try:
                self._body(node.body, item)
            except _Jumped as jump:
                if jump.args[0] == "break":
                    return None
            finally:
                del self._variables[known:]
        return None

    def _set(self, name: str, value: Any, assigns: bool) -> None:
        if not assigns:
            self._variables.append([name, value])
            return
        next(entry for entry in reversed(self._variables) if entry[0] == name)[1] = value

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value = _NONE
        for command in pipe.commands:
            value = self._command(command, dot, value)
        for name in pipe.variables:
            self._set(name, value, pipe.assigns)
        return value

    def _command(self, command: tuple[Any, ...], dot: Any, final: Any) -> Any:
        first, rest = command[0], command[1:]
        if isinstance(first, FunctionNode):
            return self._call(first.name, rest, dot, final)
        if rest or final is not _NONE:
            raise DataError(f"{first} has arguments but cannot be invoked as function")
        return self._value(first, dot)

    def _call(self, name: str, operands: tuple[Any, ...], dot: Any, final: Any) -> Any:
        values = []
        for operand in operands:
            values.append(self._value(operand, dot))
            # these two stop at the first value that decides
            if name in ("and", "or") and truth(values[-1]) is (name == "or"):
                return values[-1]
        values += [] if final is _NONE else [final]
        try:
            return FUNCTIONS[name](*values)
        except (TypeError, IndexError) as cause:
            raise DataError(f"wrong number of args for {name}: got {len(values)}") from cause

    def _value(self, node: Any, dot: Any) -> Any:
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Nil):
            return None
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Field):
            return self._fields(dot, node.names)
        if isinstance(node, Chain):
            return self._fields(self._pipe(node.pipe, dot), node.names)
        if isinstance(node, FunctionNode):
            return self._call(node.name, (), dot, _NONE)
        assert isinstance(node, Variable)
        return self._fields(next(entry for entry in reversed(self._variables) if entry[0] == node.name)[1], node.names)

    @staticmethod
    def _fields(value: Any, names: tuple[str, ...]) -> Any:
        for name in names:
            if value is None:
                raise DataError(f"nil data; no entry for key {name!r}")
            if not isinstance(value, dict) or (isinstance(value, Struct) and name not in value):
                raise DataError(f"can't evaluate field {name} in type {type(value).__name__}")
            value = value.get(name)
        return value
