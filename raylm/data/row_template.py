"""Jinja templates over a row, in a sandbox: what a name does not find, or what would print as Python, costs the row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from functools import cache
from numbers import Number
from typing import Any

from raylm.core.errors import DataError

# what a template may raise on a row that it was not written for
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
_QUOTED = re.compile(r"'([^']*)'")


def is_template(text: str) -> bool:
    """Whether it has an expression or a block of jinja."""
    return "{{" in text or "{%" in text


@cache
def template_of(text: str) -> Template:
    """The compiled template, once per process. Raises DataError where it cannot be parsed."""
    return Template(text)


class Template:
    """A template; `names` are the columns that it reads, of an object `data.question`, None where it may read all of them
    (`row` as a whole)."""

    def __init__(self, text: str) -> None:
        import jinja2
        from jinja2 import meta

        try:
            tree = _environment().parse(text)
            self._template = _environment().from_string(text)
        except jinja2.TemplateError as cause:
            raise DataError(f"no jinja template: {cause}") from cause
        free = meta.find_undeclared_variables(tree)
        read = {tuple(path) for path in _reads(tree) if path[0] in free}
        names = {".".join(path[path[0] == "row" :]) for path in read}
        self.names: frozenset[str] | None = None if "" in names else frozenset(names)

    def render(self, row: Mapping[str, Any]) -> str:
        """The text; null prints nothing.

        Raises:
            DataError: missing_column where a name is not in the row; template_prints where a list, an object or a method would
                be printed; template_fails with the error's name.
        """
        import jinja2

        shown = _shown(row)
        try:
            return self._template.render({"row": shown, **shown})
        except jinja2.UndefinedError as cause:
            found = _QUOTED.findall(str(cause))
            raise DataError(f"missing_column: {found[-1] if found else cause}"[:80], next=str(cause)) from cause
        except (jinja2.TemplateError, *_FAILURES) as cause:
            raise DataError(f"template_fails: {type(cause).__name__}", next=str(cause)) from cause


class _Null:
    """A null of a row: nothing, also where a filter or `~` makes a text of it, which would be the word None."""

    def __str__(self) -> str:
        return ""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:
        return hash(None)


class _List(list[Any]):
    def __str__(self) -> str:
        raise _prints(self)

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _List(found) if isinstance(at, slice) else found

    def __add__(self, other: Any) -> _List:
        return _List([*self, *other])


class _Object(dict[str, Any]):
    def __str__(self) -> str:
        raise _prints(self)


_TEXTS = (str, Number, date, time, timedelta, _Null)


def _shown(value: Any) -> Any:
    """A value of a row as templates see it."""
    if value is None:
        return _Null()
    if isinstance(value, Mapping):
        return _Object({key: _shown(inner) for key, inner in value.items()})
    return _List(map(_shown, value)) if isinstance(value, (list, tuple)) else value


def _reads(node: Any) -> Iterator[list[str]]:
    """Names in a tree with the keys that are read of them: [data, question]; places in a list are left out, as in a path."""
    from jinja2 import nodes

    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        # a method reads all of its object
        for inner in (node.node.node, *node.iter_child_nodes(exclude=("node",))):
            yield from _reads(inner)
        return
    keys: list[str] = []
    root = node
    while isinstance(root, (nodes.Getattr, nodes.Getitem)):
        key = root.attr if isinstance(root, nodes.Getattr) else getattr(root.arg, "value", None)
        if isinstance(root, nodes.Getitem) and key is None:
            yield from _reads(root.arg)
        if not isinstance(key, int):
            keys = [key, *keys] if isinstance(key, str) else []
        root = root.node
    if isinstance(root, nodes.Name):
        yield [root.name, *keys]
        return
    for inner in root.iter_child_nodes():
        yield from _reads(inner)


@cache
def _environment() -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        def getattr(self, obj: Any, attribute: str) -> Any:
            # a column may be called `items` or `values`
            return obj[attribute] if isinstance(obj, _Object) and attribute in obj else super().getattr(obj, attribute)

    # white space stays as it is written, as jinja itself has it: in `{% if input %}\n\n{{ input }}` both newlines are meant
    found = Environment(undefined=jinja2.StrictUndefined, finalize=_printed)
    # a row must give the same text each time, and JSON is no HTML
    del found.filters["random"]
    found.globals = {name: found.globals[name] for name in ("range", "namespace")}
    found.filters["tojson"] = _tojson
    found.tests["none"] = lambda value: value is None or isinstance(value, _Null)
    return found


def _printed(value: Any) -> Any:
    import jinja2

    if value is None:
        return ""
    if not isinstance(value, (*_TEXTS, jinja2.Undefined)):
        raise _prints(value)
    return value


def _prints(value: Any) -> DataError:
    kind = next((kind for kind in (list, dict) if isinstance(value, kind)), type(value))
    return DataError(
        f"template_prints: {kind.__name__}", next='write {{ x | tojson }} or {{ x | join(", ") }}: Python is no text'
    )


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=lambda one: None if isinstance(one, _Null) else str(one))
