"""Whether a chat template renders the tools that a row offers: their names, parameters and what is said about them."""

from __future__ import annotations

import json
from typing import Any

from raylm.core.errors import DataError
from raylm.tokenize.forms.pieces import leaves_out
from raylm.tokenize.forms.template import Template, Tools

_MARK = "\ue0f4"
_QUESTION = [{"role": "user", "content": "?"}]
_QUESTIONS = (_QUESTION, [{"role": "system", "content": "?"}, *_QUESTION])
# words of a schema that name its shape, where a mark would make another shape
_SHAPE = ("type", "format", "$ref")


def check_tools(template: Template, tools: Tools) -> list[str]:
    """What of the tools is not in the text, beside their names and those of their parameters: `tools.description`, ...

    Each string gets a mark of its own, and is rendered where the mark is in the text.

    Raises:
        DataError: the template leaves out a tool's name or one of its parameters; or it cannot render the tools.
    """
    marks: list[str] = []
    marked = [_marked(tool, (), marks) for tool in tools or ()]
    text = _rendered(template, marked)
    absent = [what for at, what in enumerate(marks) if f"{_MARK}{at}{_MARK}" not in text and _ascii(at) not in text]
    if any(what in ("name", "parameter") for what in absent):
        raise leaves_out("tools")
    return sorted({f"tools.{what}" for what in absent})


def _rendered(template: Template, tools: Tools) -> str:
    """Tools before a question; behind a system prompt where the template wants one."""
    try:
        return template.text(_QUESTIONS[0], tools, prompt=True, safe=True)
    except DataError:
        return template.text(_QUESTIONS[1], tools, prompt=True, safe=True)


def _ascii(at: int) -> str:
    return json.dumps(f"{_MARK}{at}{_MARK}")[1:-1]


def _marked(value: Any, path: tuple[str, ...], marks: list[str]) -> Any:
    """The schema with a mark in each string that says something."""
    if isinstance(value, dict):
        top = path in (("function", "parameters", "properties"), ("parameters", "properties"))
        return {
            (_mark(key, "parameter" if top else "nested_parameter", marks) if _is_properties(path) else key): _marked(
                item, (*path, key), marks
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        named = path[-1:] == ("required",)
        return value if named else [_marked(item, path, marks) for item in value]
    if not isinstance(value, str) or path[-1] in _SHAPE:
        return value
    return _mark(value, path[-1] if path[-1] != "name" or path in (("function", "name"), ("name",)) else "nested_name", marks)


def _is_properties(path: tuple[str, ...]) -> bool:
    return path[-1:] == ("properties",)


def _mark(text: str, what: str, marks: list[str]) -> str:
    marks.append(what)
    return f"{text}{_MARK}{len(marks) - 1}{_MARK}"
