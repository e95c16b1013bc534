"""Jinja templates over a row, in a sandbox: what a name does not find, or what would print as Python, costs the row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
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
    """A template; `names` are the columns that it reads, None where it may read all of them (`row` as a whole)."""

    def __init__(self, text: str) -> None:
        import jinja2
        from jinja2 import meta, nodes

        try:
            tree = _environment().parse(text)
            self._template = _environment().from_string(text)
        except jinja2.TemplateError as cause:
            raise DataError(f"no jinja template: {cause}") from cause
        names = meta.find_undeclared_variables(tree)
        by_key: set[str] = set()
        whole = sum(name.name == "row" for name in tree.find_all(nodes.Name))
        for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
            if isinstance(node.node, nodes.Name) and node.node.name == "row":
                key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
                if isinstance(key, str):
                    by_key.add(key)
                    whole -= 1
        self.names: frozenset[str] | None = None if whole else frozenset((names - {"row"}) | by_key)

    def render(self, row: Mapping[str, Any]) -> str:
        """The text; null prints nothing.

        Raises:
            DataError: missing_column where a name is not in the row; template_prints where a list or an object would be
                printed; template_fails with the error's name.
        """
        import jinja2

        try:
            return self._template.render({"row": row, **row})
        except jinja2.UndefinedError as cause:
            found = _QUOTED.findall(str(cause))
            raise DataError(f"missing_column: {found[-1] if found else cause}", next=str(cause)) from cause
        except (jinja2.TemplateError, *_FAILURES) as cause:
            raise DataError(f"template_fails: {type(cause).__name__}", next=str(cause)) from cause


@cache
def _environment() -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # white space stays as it is written, as jinja itself has it: in `{% if input %}\n\n{{ input }}` both newlines are meant
    found = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_printed)
    # a row must give the same text each time, and JSON is no HTML
    del found.filters["random"]
    found.globals = {name: found.globals[name] for name in ("range", "namespace")}
    found.filters["tojson"] = _tojson
    return found


def _printed(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (Mapping, list, tuple, set)):
        raise DataError(
            f"template_prints: {type(value).__name__}", next='write {{ x | tojson }} or {{ x | join(", ") }}: Python is no text'
        )
    return value


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
