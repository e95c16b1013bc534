"""Calls of tools in what a model says: read in Hermes' form here, in other model families' by vLLM's parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.inference.tool_families import HERMES, family_of

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class Parsed(NamedTuple):
    """The calls of one turn, `[{"name": ..., "arguments": {...}}]`, what stands beside them, and what cannot be read as one."""

    content: str
    calls: list[dict[str, Any]]
    errors: list[str]


Parse = Callable[[str], Parsed]


def parser_of(name: str, tokenizer: Any, tools: list[dict[str, Any]]) -> tuple[str, Parse]:
    """The parser of that name, or with `auto` the one of the family whose calls the chat template writes; (name, parser).

    Raises:
        ConfigError: there is none of that name, or the template tells no family.
    """
    if name == "auto":
        name = family_of(tokenizer, tools)
        if not name:
            raise ConfigError(
                "the model's chat template does not tell in which form the model calls tools",
                where="tool_parser",
                next="name vLLM's parser of its family: tool_parser = ...; or take a template that renders tool_calls",
            )
    if name == HERMES:
        return name, read_hermes
    from raylm.inference.vllm_private import vllm_parser

    read = vllm_parser(name, tokenizer, tools)

    def parse(text: str) -> Parsed:
        content, calls = read(text)
        return _parsed(text, content, [_call(call["name"], _decoded(call["arguments"])) for call in calls])

    return name, parse


def read_hermes(text: str) -> Parsed:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen models write calls; an end that is missing
    behind whole JSON is forgiven, as vLLM's `hermes` does."""
    found = [_decoded(match[1]) for match in _CALL.finditer(text)]
    content = text[: text.find("<tool_call>")] if found else text
    calls = [_call(one.get("name"), one.get("arguments")) if isinstance(one, dict) else _no_call(one) for one in found]
    return _parsed(text, content, calls)


def _parsed(text: str, content: str, calls: list[dict[str, Any] | str]) -> Parsed:
    """Where one of the calls cannot be read the turn has none, as it would be served: its whole text is content."""
    errors = [call for call in calls if isinstance(call, str)]
    if errors:
        return Parsed(text.strip(), [], errors)
    return Parsed(content.strip(), [call for call in calls if isinstance(call, dict)], [])


def _call(name: Any, arguments: Any) -> dict[str, Any] | str:
    if not isinstance(name, str) or not name.strip():
        return "a call needs the `name` of a tool"
    if not isinstance(arguments, dict):
        return f"the `arguments` of {name[:40]} are no JSON object"
    return {"name": name, "arguments": arguments}


def _no_call(decoded: Any) -> str:
    return decoded if isinstance(decoded, str) else 'a call is a JSON object {"name": ..., "arguments": {...}}'


def _decoded(text: str) -> Any:
    """The JSON in the text, or in words why it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as cause:
        return f"a call is no JSON: {cause}"
