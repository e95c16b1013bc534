"""Normalizes the messages of chat rows: who speaks in each turn, what is said, thought and called, and what is not trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from raylm.core.errors import DataError
from raylm.data.tools import tool_calls

Message = dict[str, Any]
"""`role` and `content` (a string, "" where a turn only calls); where the turn has them `reasoning_content` (a string),
`tool_calls` (`raylm.data.tools`), `tool_call_id`, `name`; and `weight` 0 on turns that are not trained on."""
Dialogue = list[Message]

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
# turns of the assistant whose words are JSON of calls (LLaMA-Factory, ms-swift)
_CALLS = ("function_call", "tool_call", "tool_calls")
_KNOWN = ("user", "assistant", "system", "tool", "developer")
# keys with content that is not read: a message without it would be a different message
_UNREAD = (
    "tool_responses",
    "tools",
    "functions",
    "reasoning_details",
    "thoughts",
    "refusal",
    "recipient",
    "channel",
    "image",
    "images",
    "audio",
    "audios",
    "video",
    "videos",
    "documents",
    "loss_mask",
    "loss_scale",
    "mask",
    # axolotl: which characters of the turn are trained on
    "train_detail",
    "training_detail",
)
_REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
_MEDIA = ("image", "image_url", "audio", "input_audio", "video", "video_url", "file")
_EMPTY = (None, "", [], {})
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_ROLE_NAME = re.compile(r"[A-Za-z_]{1,24}")
# OpenAI and Mistral (weight), axolotl (train, training), AgentInstruct and ChatGLM (loss); absent or null: as the role says
_WEIGHTS = ("weight", "loss_weight")
_LEARNED = ("train", "training", "trainable", "loss")


def messages(value: Any, column: str, role: str | None = None) -> Dialogue:
    """The messages of a column.

    Args:
        role: whose words a plain string is; None where a string is no messages.

    Raises:
        DataError: the column has another shape, or a message says more than its role and content.
    """
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}]
    if isinstance(value, Mapping) and role:
        return [_message(value, column)]
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a list of messages with role and content")
    return [_message(turn, column) for turn in value]


def plain(turns: Dialogue) -> Dialogue:
    """The turns as what renders no more than role and content takes them. Raises DataError where a turn has more."""
    for turn in turns:
        if more := next((key for key in turn if key not in ("role", "content", "weight")), None):
            raise DataError(f"unread_key: {more}", next="only the role and content of a turn are rendered here")
    return for_template(turns)


def for_template(turns: Dialogue) -> Dialogue:
    """The turns as chat templates and clients take them: all but `weight`."""
    return [{key: value for key, value in turn.items() if key != "weight"} for turn in turns]


def readable(turn: Message) -> str:
    """What a turn thinks, says and calls, as a text to search in and to filter by."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", ())]
    more = [part for part in (turn.get("reasoning_content"), turn["content"], *calls) if part]
    return "\n\n".join(more) if calls or "reasoning_content" in turn else turn["content"]


def string(value: Any, column: str) -> str:
    """The text of a column that must be one. A whole number is its digits; a list or an object is no text."""
    if type(value) is int:
        return json.dumps(value)
    if not isinstance(value, str):
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a string")
    return value


def _message(turn: Any, column: str) -> Message:
    if not isinstance(turn, Mapping):
        raise _wrong(column)
    unread = next((key for key in _UNREAD if turn.get(key) not in _EMPTY), None)
    if unread:
        raise DataError(f"unread_key: {column}.{unread}", next=f"{unread} of a message is not rendered")
    role, calls_in_words = _role(turn, column)
    content = _content(turn, column)
    made: Message = {"role": role, "content": content}
    reasoning, calls = _reasoning(turn, column), _calls(turn, column)
    if calls_in_words and content is not None:
        thought = _THOUGHT.match(content)
        reasoning = thought[1].strip() if thought and not reasoning else reasoning
        made["content"], calls = "", calls + tool_calls(content[thought.end() :] if thought else content)
    if role != "assistant" and (reasoning or calls):
        raise DataError(f"unread_key: {column}.{'tool_calls' if calls else 'reasoning_content'}", next=f"{role} has none")
    if content is None:
        if not reasoning and not calls:
            raise _wrong(column)
        made["content"] = ""
    id, name = turn.get("tool_call_id"), turn.get("name")
    if id not in _EMPTY and (role != "tool" or not isinstance(id, (str, int))):
        raise DataError(f"unread_key: {column}.tool_call_id", next="a tool turn has the id of the call that it answers")
    if name not in _EMPTY and not isinstance(name, str):
        raise DataError(f"unread_key: {column}.name", next="a name must be a string")
    made |= {"reasoning_content": reasoning} if reasoning else {}
    made |= {"tool_calls": calls} if calls else {}
    made |= {"tool_call_id": str(id)} if id not in _EMPTY else {}
    made |= {"name": name} if name not in _EMPTY else {}
    return made | ({} if _is_learned(turn, role, column) else {"weight": 0})


def _wrong(column: str) -> DataError:
    return DataError(f"wrong_shape: {column}", next=f"a message of {column} needs role and content, or from and value")


def _role(turn: Mapping[str, Any], column: str) -> tuple[str, bool]:
    """(user, assistant, system, tool or developer, however it is called; whether the words are calls)."""
    name = next((turn[key] for key in ("role", "from") if isinstance(turn.get(key), str)), None)
    if name is None:
        raise _wrong(column)
    role = name.strip().lower()
    if role in _CALLS:
        return "assistant", True
    role = _ROLES.get(role, role)
    if role not in _KNOWN:
        shown = f": {name}" if _ROLE_NAME.fullmatch(name) else ""
        raise DataError(f"unknown_role{shown}", next=f"a turn of {column} is said by {', '.join(_KNOWN)}, or an alias of these")
    return role, False


def _content(turn: Mapping[str, Any], column: str) -> str | None:
    """The words; parts of text are joined. None where there are none."""
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, (list, tuple)):
        return "".join(_part(part, column) for part in content) if content else None
    if content is not None and not isinstance(content, str):
        raise _wrong(column)
    return content


def _reasoning(turn: Mapping[str, Any], column: str) -> str:
    found = {key: turn[key] for key in _REASONING if turn.get(key) not in _EMPTY}
    for key, text in found.items():
        if not isinstance(text, str) or text != next(iter(found.values())):
            raise DataError(f"unread_key: {column}.{key}", next="a turn has one text that it thinks")
    return next(iter(found.values()), "")


def _calls(turn: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
    """Those of `tool_calls`, or the one of `function_call`, OpenAI's older key."""
    found = [key for key in ("tool_calls", "function_call") if turn.get(key) not in (*_EMPTY, "[]", "null")]
    if len(found) == 2:
        raise DataError(f"unread_key: {column}.function_call", next="write all calls into tool_calls")
    return tool_calls(turn[found[0]]) if found else []


def _is_learned(turn: Mapping[str, Any], role: str, column: str) -> bool:
    learned = True
    for key in (*_WEIGHTS, *_LEARNED):
        value = turn.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(f"unread_key: {column}.{key}", next="a turn is learned (1, true) or not (0, false), nothing between")
        if value and role != "assistant" and key in _LEARNED:
            raise DataError(f"unread_key: {column}.{key}", next="what others say is learned by roles_to_train of the form")
        learned &= bool(value)
    return learned


def _part(part: Any, column: str) -> str:
    """The text of a part of a message. Raises DataError where it is an image, a sound or the like."""
    if not isinstance(part, Mapping):
        raise _wrong(column)
    media = next((key for key in _MEDIA if part.get(key) not in _EMPTY), None)
    kind = part.get("type") or media
    if isinstance(kind, str) and (kind != "text" or media):
        shown = media if kind == "text" else kind
        raise DataError(f"part_not_text: {shown}"[:40], next="only text is rendered: leave the row out, or describe the part")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise _wrong(column)
    weighed = next((key for key in (*_WEIGHTS, *_LEARNED) if part.get(key) is not None), None)
    if weighed:
        raise DataError(f"unread_key: {column}.content.{weighed}", next="a turn is learned whole or not at all")
    return part["text"]
