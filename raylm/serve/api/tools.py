"""What a request may say of tools: their schemas, which of them is to be called, and turns that call and answer.

vLLM reads calls by the parser of the model's family (`raylm.inference.tool_families`); where the chat template tells none, tools
are refused: the model would never hear of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raylm.serve.envelope import Refused, bad_request

MOST_TOOLS = 128
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize")
CHOICES = ("auto", "none", "required")
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Offer(NamedTuple):
    """Tools of a request, and which of them is to be called."""

    tools: Any
    choice: Any
    """As /v1/chat/completions says it."""
    read: Callable[[Any, str], tuple[str, dict[str, Any]]]
    """Name and schema of one of the tools, which stands at the place named; raises Refused for what is no tool."""


def check_tools(path: str, offered: Offer, has_family: bool) -> list[dict[str, Any]]:
    """Schemas that the answer must be compiled to: of a tool that must be called.

    Args:
        has_family: the model's template writes calls in a known form.

    Raises:
        Refused: tools where none are served, or what is no tool.
    """
    tools, choice = offered.tools or [], offered.choice
    if not tools and choice in (None, "none", "auto"):
        return []
    where = "tools" if tools else "tool_choice"
    if not has_family:
        raise _refused(where, "is not served: the model's chat template has no tools. For JSON of a form use `response_format`")
    if path not in ROUTES:
        raise _refused(where, f"is served at {', '.join(ROUTES[:3])} alone")
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS:
        raise bad_request(f"`tools` must be a list of at most {MOST_TOOLS} tools.", "tools")
    schemas = {name: schema for at, tool in enumerate(tools) for name, schema in [offered.read(tool, f"tools[{at}]")]}
    if len(schemas) < len(tools):
        raise bad_request("Two tools have one name.", "tools")
    # the parameters of all are read into the prompt; they are compiled where a call is forced
    if choice in (None, "none", "auto"):
        return []
    if choice == "required":
        return [{"anyOf": list(schemas.values())}] if schemas else _no_such("required", schemas)
    inner = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    named = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(named, str):
        raise bad_request(f"`tool_choice` is one of {', '.join(CHOICES)}, or names a function.", "tool_choice")
    return [schemas[named]] if named in schemas else _no_such(named, schemas)


def check_turn(message: dict[str, Any], where: str, has_family: bool) -> None:
    """Raises Refused where a turn calls or answers tools in a way that is not served."""
    calls, role = message.get("tool_calls"), message.get("role")
    if role == "function" or message.get("function_call"):
        raise _refused(where, "is an old form: say `tool_calls`, and answer with the role `tool`")
    if not calls and role != "tool":
        return
    if not has_family:
        raise _refused(where, "is not served: the model's chat template has no tools")
    if role == "tool" and not isinstance(message.get("content"), str | list):
        raise bad_request(f"`{where}.content` must be a text.", f"{where}.content")
    if calls and (role != "assistant" or not isinstance(calls, list)):
        raise bad_request(f"`{where}.tool_calls` must be a list, of an assistant's turn.", f"{where}.tool_calls")
    for at, call in enumerate(calls or []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise bad_request(f"`{where}.tool_calls[{at}]` must have a `function` with a `name`.", f"{where}.tool_calls")
        if not isinstance(arguments_of(function), dict):
            raise bad_request(f"The arguments of `{where}.tool_calls[{at}]` are no JSON object.", f"{where}.tool_calls")


def arguments_of(function: dict[str, Any]) -> Any:
    """The arguments of a call, decoded; None where they are no JSON."""
    given = function.get("arguments")
    if not isinstance(given, str):
        return given if given is not None else {}
    try:
        return json.loads(given) if given else {}
    except (ValueError, RecursionError):
        return None


def marked(message: dict[str, Any], content: str) -> dict[str, Any]:
    """A turn as a template gets it, with `content` in place of its own; a turn that only calls has none."""
    turn: dict[str, Any] = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        calls = [each["function"] for each in message["tool_calls"]]
        turn["tool_calls"] = [
            {"type": "function", "id": str(each.get("id", "")), "function": {"name": f["name"], "arguments": arguments_of(f)}}
            for each, f in zip(message["tool_calls"], calls, strict=True)
        ]
        turn["content"] = content if message.get("content") else ""
    return turn | {key: message[key] for key in ("tool_call_id", "name") if isinstance(message.get(key), str)}


def offer(asked: dict[str, Any]) -> Offer:
    """What a request of /v1/chat/completions offers. Raises Refused for the forms that came before tools."""
    for name in ("functions", "function_call"):
        if asked.get(name) not in (None, [], {}, "none"):
            raise _refused(name, "is an old form: say `tools` and `tool_choice`")
    return Offer(asked.get("tools"), asked.get("tool_choice"), wrapped)


def wrapped(tool: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Name and schema of a tool in the form of /v1/chat/completions."""
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise bad_request(f"`{where}` must be {{'type': 'function', 'function': ...}}.", where)
    return named(function, f"{where}.function", "parameters")


def named(function: dict[str, Any], where: str, schema: str) -> tuple[str, dict[str, Any]]:
    """Name and schema of a function whose schema stands in the field `schema`."""
    name, parameters = function.get("name"), function.get(schema)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_request(f"`{where}.name` must be 1 to 64 letters, digits, `_`, `-`, `.` or `:`.", f"{where}.name")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad_request(f"`{where}.{schema}` must be a JSON schema.", f"{where}.{schema}")
    return name, parameters or {"type": "object"}


def _no_such(name: str, schemas: Sequence[str] | dict[str, Any]) -> list[dict[str, Any]]:
    known = ", ".join(schemas) or "none"
    raise bad_request(f"`tool_choice` asks for {name}; the tools are {known}.", "tool_choice")


def _refused(name: str, why: str) -> Refused:
    return bad_request(f"`{name}` {why}.", name, "unsupported_parameter")
