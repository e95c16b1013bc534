"""The strings that a turn says: thoughts, words, names, calls and their arguments, each of which a template must render."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, Message

REASONING, CONTENT, NAME, CALL, KEY, ARGUMENT = "reasoning", "content", "name", "call", "key", "argument"
CALLS = (CALL, KEY, ARGUMENT)
Visit = Callable[[str, str], str]
"""(what it is, the string) -> what stands there instead."""


def each_string(turn: Message, visit: Visit) -> Message:
    """A copy of the turn with every string of it as `visit` has it; role and ids stay."""
    made = dict(turn)
    if turn.get("reasoning_content"):
        made["reasoning_content"] = visit(REASONING, turn["reasoning_content"])
    made["content"] = visit(CONTENT, turn["content"])
    if turn.get("name"):
        made["name"] = visit(NAME, turn["name"])
    if calls := turn.get("tool_calls"):
        made["tool_calls"] = [_call(call, visit) for call in calls]
    return made


def _call(call: dict[str, Any], visit: Visit) -> dict[str, Any]:
    function = call["function"]
    name = visit(CALL, function["name"])
    return {**call, "function": {**function, "name": name, "arguments": _arguments(function.get("arguments", {}), visit)}}


def _arguments(value: Any, visit: Visit) -> Any:
    if isinstance(value, dict):
        return {visit(KEY, key): _arguments(item, visit) for key, item in value.items()}
    if isinstance(value, list):
        return [_arguments(item, visit) for item in value]
    return visit(ARGUMENT, value) if isinstance(value, str) else value


def check_scalars(turn: Message, region: str) -> None:
    """Raise DataError where a key of a call's arguments, or a value that is no string, is not in the `region` of its text."""
    for call in turn.get("tool_calls", ()):
        for value in _scalars(call["function"].get("arguments", {})):
            written = json.dumps(value, ensure_ascii=False)
            if str(value) not in region and (written[1:-1] if isinstance(value, str) else written) not in region:
                raise leaves_out("tool_calls")


def check_names(turns: Dialogue, named: set[int]) -> None:
    """Raise DataError where a name is not rendered, but for a tool's own, which the call before it says.

    Args:
        named: turns whose name is in the text.
    """
    called: list[str] = []
    for number, turn in enumerate(turns):
        if calls := turn.get("tool_calls"):
            called = [call["function"]["name"] for call in calls]
        if turn.get("name") and number not in named and not (turn["role"] == "tool" and turn["name"] in called):
            raise leaves_out("name")


def check_order(turns: Dialogue, text: str) -> None:
    """Raise DataError where answers of tools come in another order than their calls, and the ids that say so are not rendered."""
    waiting: list[str] = []
    for turn in turns:
        if calls := turn.get("tool_calls"):
            waiting = [call["id"] for call in calls if call.get("id")]
        id = turn.get("tool_call_id")
        if turn["role"] != "tool" or id not in waiting:
            continue
        if id != waiting[0] and id not in text:
            raise leaves_out("tool_call_id")
        waiting.remove(id)


def leaves_out(what: str) -> DataError:
    """The reason of a row whose `what` the template drops."""
    return DataError(f"template_leaves_out: {what}", next=f"take a template that renders {what}, or leave it out of the rows")


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif not isinstance(value, str):
        yield value
