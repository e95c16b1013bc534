"""What a request says to a model that chats, in one form for all routes that say it: turns as /v1/chat/completions has them.

/v1/chat/completions, /tokenize   `messages`                                          -.
/v1/responses                     `instructions` + `input` items  (responses_shape)    +-> turns -> chat template -> all heard?
/v1/messages, .../count_tokens    `system` + `messages` of blocks (anthropic_shape)   -'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.serve.api.tools import check_turn, marked
from raylm.serve.envelope import bad_request

ROLES = ("system", "developer", "user", "assistant")
Render = Callable[[list[dict[str, Any]], dict[str, Any]], str]
_MARK = re.compile(r"said(\d+)here")


class Turn(NamedTuple):
    """A message as /v1/chat/completions has it, and where in the request it stands."""

    where: str
    message: dict[str, Any]


def of_chat(asked: dict[str, Any], has_tools: bool) -> list[Turn]:
    """Turns of `messages`; none where there is a `prompt` in their place. Raises Refused for what is no message."""
    messages = asked.get("messages")
    if messages is None and "prompt" in asked:
        return []
    if not isinstance(messages, list) or not messages:
        raise bad_request("`messages` must be a list of messages with at least one.", "messages")
    return [checked(message, f"messages[{at}]", has_tools) for at, message in enumerate(messages)]


def checked(message: Any, where: str, has_tools: bool) -> Turn:
    """A message that has the form of one. Raises Refused."""
    if not isinstance(message, dict):
        raise bad_request(f"`{where}` must be an object with `role` and `content`.", where)
    role = message.get("role")
    check_turn(message, where, has_tools)
    if role not in (*ROLES, *(("tool",) if has_tools else ())):
        raise bad_request(f"`{where}.role` is {str(role)[:40]!r}; roles are {', '.join(ROLES)}.", f"{where}.role")
    content = message.get("content")
    if not isinstance(content, str | list) and not (role == "assistant" and content is None):
        raise bad_request(f"`{where}.content` must be a text or a list of parts.", f"{where}.content")
    if isinstance(content, list) and not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
        raise bad_request(f"The parts of `{where}.content` must be objects with a `type`.", f"{where}.content")
    return Turn(where, message)


def check_heard(turns: list[Turn], asked: dict[str, Any], tools: Any, render: Render | None) -> None:
    """Raises Refused when the chat template passes over what somebody says: the answer would be to another question.

    Args:
        tools: what the template is handed as tools.
        render: what the template makes of (messages, its further arguments); None where the model has none.
    """
    given = asked.get("chat_template_kwargs")
    extra = {**(given if isinstance(given, dict) else {}), **({"tools": tools} if tools else {})}
    said = [marked(turn.message, f"said{at}here") for at, turn in enumerate(turns)]
    text = render(said, extra) if render and turns else ""
    if not text:
        return
    heard = set(_MARK.findall(text))
    for at, turn in enumerate(turns):
        if said[at]["content"] and str(at) not in heard:
            message = f"The model's chat template leaves out what the {turn.message['role']} says in `{turn.where}`"
            raise bad_request(f"{message}; put it into another message.", turn.where, "message_left_out")
