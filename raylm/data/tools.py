"""Tools of a row and calls of a turn, in OpenAI's form however a data set writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from raylm.core.errors import DataError

TOOLS = ("tools", "functions")
"""Columns with the tools of a row; `functions` is OpenAI's older name."""
# what is rendered with its keys in the order of the row, as `tojson` of transformers writes them
ORDERED = frozenset((*TOOLS, "tool_calls", "function_call"))
_CALL_KEYS = ("type", "id", "function", "name", "arguments", "index")
_NOTHING = (None, "", [], {}, "[]", "{}", "null")


def tools_of(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools that a row offers, as `apply_chat_template(tools=...)` takes them; None where it offers none.

    `[{"type": "function", "function": {"name": ..., "description": ..., "parameters": <JSON schema>}}]`: a bare function is
    wrapped as clients of an endpoint must write it, and JSON text (of the list, of one tool, of `parameters`) is decoded.

    Raises:
        DataError: invalid_tools: json, name or parameters; or `tools` and `functions` differ.
    """
    found = [_tools(row[column], column) for column in TOOLS if row.get(column) not in _NOTHING]
    if len(found) == 2 and found[0] != found[1]:
        raise DataError("unread_key: functions", next="a row must have one list of tools")
    return found[0] if found else None


def tool_calls(value: Any) -> list[dict[str, Any]]:
    """The calls of a turn, `[{"type": "function", "id": str?, "function": {"name": str, "arguments": dict}}]`.

    Args:
        value: a list of calls or one alone, in OpenAI's form or bare (`name` and `arguments`), or JSON text of that.

    Raises:
        DataError: invalid_tool_call: json, type, name or arguments; or a key that is not read.
    """
    value = _decoded(value, "invalid_tool_call: json") if isinstance(value, str) else value
    return [_call(call) for call in ([value] if isinstance(value, Mapping) or not isinstance(value, (list, tuple)) else value)]


def check_answers(turns: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError(tool_answers_no_call) where a tool turn has an id that no call before it has, or there are more answers
    than calls. A dialogue whose turns have no `tool_calls` may call in its words: there only ids are looked at."""
    waiting: list[str | None] = []
    called = any("tool_calls" in turn for turn in turns)
    for turn in turns:
        waiting += [call.get("id") for call in turn.get("tool_calls", ())]
        if turn["role"] != "tool":
            continue
        id = turn.get("tool_call_id")
        # of calls without ids, the first that waits is the one that is answered
        at = next((at for at, other in enumerate(waiting) if id is None or other is None or id == other), None)
        if at is not None:
            del waiting[at]
        elif called or id is not None:
            raise DataError("tool_answers_no_call", next="a tool turn must follow the call that it answers, and name its id")


def in_order(value: Any, keep: bool = False) -> Any:
    """The value with the keys of its objects sorted, but those of tools and calls as they stand."""
    if isinstance(value, Mapping):
        keys = value if keep else sorted(value)
        return {key: in_order(value[key], keep or key in ORDERED) for key in keys}
    return [in_order(inner, keep) for inner in value] if isinstance(value, (list, tuple)) else value


def without_nulls(value: Any, also: str | None = None, within: bool = False) -> Any:
    """The value without the nulls that Arrow puts where other rows' tools and calls have a key.

    Args:
        also: a column that holds tools under another name.
    """
    if isinstance(value, dict):
        return {
            key: without_nulls(inner, None, within or key in ORDERED or key == also)
            for key, inner in value.items()
            if inner is not None or not within
        }
    return [without_nulls(inner, None, within) for inner in value] if isinstance(value, list) else value


def _tools(value: Any, column: str) -> list[dict[str, Any]]:
    value = _decoded(value, "invalid_tools: json") if isinstance(value, str) else value
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, (list, tuple)):
        raise DataError("invalid_tools: json", next=f"{column} must be a list of JSON schemas of functions, or its JSON text")
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> dict[str, Any]:
    tool = _decoded(tool, "invalid_tools: json") if isinstance(tool, str) else tool
    if not isinstance(tool, Mapping):
        _no_schema("json")
    wrapped = isinstance(tool.get("function"), Mapping)
    if tool.get("type") not in (None, "function"):
        _no_schema("type")
    function = dict(tool["function"] if wrapped else tool)
    if not wrapped:
        function.pop("type", None)
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        _no_schema("name")
    parameters = function.get("parameters")
    if isinstance(parameters, str):
        parameters = function["parameters"] = _decoded(parameters, "invalid_tools: parameters")
    if parameters is not None:
        _check_parameters(parameters)
    return {"type": "function", **dict(tool), "function": function} if wrapped else {"type": "function", "function": function}


def _check_parameters(parameters: Any) -> None:
    """A JSON schema of an object, or an object of parameters by name, as some data sets have it."""
    if not isinstance(parameters, Mapping):
        _no_schema("parameters")
    kind, properties = parameters.get("type"), parameters.get("properties")
    if (isinstance(kind, str) and kind != "object") or not (properties is None or isinstance(properties, Mapping)):
        _no_schema("parameters")
    if not all(isinstance(schema, (Mapping, bool)) for schema in (properties or {}).values()):
        _no_schema("parameters")


def _no_schema(part: str) -> NoReturn:
    raise DataError(
        f"invalid_tools: {part}",
        next='write {"type": "function", "function": {"name": ..., "description": ..., "parameters": {"type": "object", ...}}}',
    )


def _call(call: Any) -> dict[str, Any]:
    call = _decoded(call, "invalid_tool_call: json") if isinstance(call, str) else call
    if not isinstance(call, Mapping):
        _no_call("json")
    function = call.get("function") if call.get("function") is not None else call
    if call.get("type") not in (None, "function"):
        _no_call("type")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"].strip():
        _no_call("name")
    unread = next((key for part in (call, function) for key in part if key not in _CALL_KEYS and part[key] not in _NOTHING), None)
    if unread is not None:
        raise DataError(f"unread_key: tool_calls.{unread}", next="a call is its id, the name of a function, and its arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        arguments = _decoded(arguments, "invalid_tool_call: arguments")
    arguments = {} if arguments is None or arguments == "" else arguments
    if not isinstance(arguments, Mapping):
        _no_call("arguments")
    made = {"name": function["name"], "arguments": dict(arguments)}
    id = call.get("id")
    if not isinstance(id, (str, int, type(None))):
        _no_call("id")
    # `type` and `id` in the order of the row, for templates that write a call as a whole
    whole = (
        {"type": "function", "id": str(id), "function": made} if id not in (None, "") else {"type": "function", "function": made}
    )
    order = [key for key in call if key in whole] if function is not call else []
    return {key: whole[key] for key in (*order, *(key for key in whole if key not in order))}


def _no_call(part: str) -> NoReturn:
    raise DataError(
        f"invalid_tool_call: {part}",
        next='write {"type": "function", "function": {"name": ..., "arguments": {...}}}; arguments: an object or its JSON text',
    )


def _decoded(text: str, reason: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as cause:
        raise DataError(reason, next=f"{text[:60]!r} is no JSON: {cause}") from cause
