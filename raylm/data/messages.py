"""Normalizes the messages of chat rows: role and content of each turn, and which turns are not trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raylm.core.errors import DataError

Message = dict[str, Any]
"""role and content; and `weight` 0 on turns of the assistant that are not trained on."""
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
}
_KNOWN = ("user", "assistant", "system", "tool", "developer")
# keys with content beside role and content: a message without it would be a different message
_UNREAD = (
    "tool_calls",
    "tool_call_id",
    "tool_responses",
    "tools",
    "functions",
    "function_call",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "thought",
    "thoughts",
    "refusal",
    "name",
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
    "mask",
)
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
    """The turns as templates and clients take them: role and content alone."""
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def string(value: Any, column: str) -> str:
    """The text of a column that must be one. A whole number is its digits; a list or an object is no text."""
    if type(value) is int:
        return json.dumps(value)
    if not isinstance(value, str):
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a string")
    return value


def _message(turn: Any, column: str) -> Message:
    if isinstance(turn, Mapping):
        unread = next((key for key in _UNREAD if turn.get(key) not in (None, "", [], {})), None)
        if unread:
            raise DataError(f"unread_key: {column}.{unread}", next="a message is its role and content; nothing else is rendered")
        role, content = _role(turn), turn.get("content") if turn.get("content") is not None else turn.get("value")
        if isinstance(content, list) and content and all(_is_text_part(part, column) for part in content):
            content = "".join(part["text"] for part in content)
        if role is not None and isinstance(content, str):
            return {"role": role, "content": content} | ({} if _is_learned(turn, role, column) else {"weight": 0})
    raise DataError(f"wrong_shape: {column}", next=f"a message of {column} needs role and content, or from and value")


def _role(turn: Mapping[str, Any]) -> str | None:
    """user, assistant, system or tool, however it is called. A `role` of another name stays, for templates that know it."""
    for key in ("role", "from"):
        if isinstance(name := turn.get(key), str):
            role = name.strip().lower()
            role = _ROLES.get(role, role)
            return role if role in _KNOWN else name if key == "role" else None
    return None


def _is_learned(turn: Mapping[str, Any], role: str, column: str) -> bool:
    learned = True
    for key in (*_WEIGHTS, *_LEARNED):
        value = turn.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(f"unread_key: {column}.{key}", next="a turn is learned (1, true) or not (0, false), nothing between")
        if value and role != "assistant" and key in _LEARNED:
            raise DataError(f"unread_key: {column}.{key}", next="only what the assistant says is learned")
        learned &= bool(value)
    return learned or role != "assistant"


def _is_text_part(part: Any, column: str) -> bool:
    """A part of a multimodal message that is text alone."""
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        return False
    weighed = next((key for key in (*_WEIGHTS, *_LEARNED) if part.get(key) is not None), None)
    if weighed:
        raise DataError(f"unread_key: {column}.content.{weighed}", next="a turn is learned whole or not at all")
    return True
