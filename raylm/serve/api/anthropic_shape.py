"""The shape of /v1/messages and /v1/messages/count_tokens: what of it is served, and its blocks as turns of a chat.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import json
from typing import Any

from raylm.serve.api.dialogue import Turn
from raylm.serve.api.tools import Offer, named
from raylm.serve.envelope import Refused, bad_request

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
ROLES = ("user", "assistant", "system")
BLOCKS = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")
CHOICES = {"auto": "auto", "none": "none", "any": "required"}
NOT_SERVED = {
    "mcp_servers": "there are no tools that run here",
    "container": "nothing runs here",
    "context_management": "send the dialogue as the model is to read it",
    "inference_geo": "it runs where the endpoint stands",
}


def check_fields(asked: dict[str, Any], path: str, reasons: bool) -> None:
    """Raises Refused for fields that are not served, or are none.

    Args:
        reasons: the model's thoughts are read.
    """
    for name, why in NOT_SERVED.items():
        if asked.get(name) not in (None, False, [], {}, ""):
            raise _refused(name, f"is not served: {why}")
    if path == PATH and not isinstance(asked.get("max_tokens"), int):
        raise bad_request("`max_tokens` must say how many tokens the answer may have.", "max_tokens")
    if asked.get("service_tier") not in (None, "auto", "standard_only"):
        raise _refused("service_tier", "has one level here: leave it out")
    thinking: Any = asked.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if thinking is not None and kind not in ("enabled", "adaptive", "disabled"):
        raise bad_request("`thinking.type` is one of enabled, adaptive and disabled.", "thinking")
    if kind == "enabled":
        why = "the model chooses how long it thinks: say adaptive" if reasons else "the model's chat template has no thoughts"
        raise _refused("thinking", f"of type enabled is not served: {why}")


def offer(asked: dict[str, Any]) -> Offer:
    """Tools of the request."""
    choice: Any = asked.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if choice is not None and kind not in (*CHOICES, "tool"):
        raise bad_request("`tool_choice.type` is one of auto, any, none and tool.", "tool_choice")
    if isinstance(choice, dict) and kind == "tool":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return Offer(asked.get("tools"), CHOICES.get(str(kind), choice), _tool)


def chat_tools(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools as a chat template is handed them; read by `offer` before."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": {"type": "object", **(tool.get("input_schema") or {})},
            },
        }
        for tool in asked.get("tools") or []
    ]


def turns(asked: dict[str, Any], has_tools: bool) -> list[Turn]:
    """The dialogue. Raises Refused for blocks that are not served."""
    said, given = list[Turn](), asked.get("messages")
    if (system := asked.get("system")) is not None:
        said.append(Turn("system", {"role": "system", "content": _texts(system, "system")}))
    if not isinstance(given, list) or not given:
        raise bad_request("`messages` must be a list of messages with at least one.", "messages")
    for at, message in enumerate(given):
        where = f"messages[{at}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise bad_request(f"`{where}.role` is {str(role)[:40]!r}; roles are {', '.join(ROLES)}.", f"{where}.role")
        said += _turns(message["role"], message.get("content"), where, has_tools)
    return said


def _turns(role: str, content: Any, where: str, has_tools: bool) -> list[Turn]:
    """What one message says: answers of tools are turns of their own, before the rest."""
    place = f"{where}.content"
    if role == "system" or isinstance(content, str):
        return [Turn(where, {"role": role, "content": _texts(content, place)})]
    if not isinstance(content, list):
        raise bad_request(f"`{place}` must be a text or a list of blocks.", place)
    answers, calls, texts = list[Turn](), list[dict[str, Any]](), list[str]()
    for at, block in enumerate(content):
        kind = _kind(block, f"{place}[{at}]", role, has_tools)
        if kind == "text":
            texts.append(_text(block, f"{place}[{at}]"))
        elif kind == "tool_result":
            told = _texts(block.get("content") or "", f"{place}[{at}].content")
            answers.append(Turn(f"{place}[{at}]", {"role": "tool", "tool_call_id": block["tool_use_id"], "content": told}))
        elif kind == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id") or "", "type": "function", "function": function})
    own: dict[str, Any] = {"role": role, "content": "".join(texts) or None}
    if calls:
        own["tool_calls"] = calls
    return [*answers, *([Turn(where, own)] if texts or calls else [])]


def _kind(block: Any, where: str, role: str, has_tools: bool) -> str:
    """The kind of a block that is served. Raises Refused for others."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind not in BLOCKS:
        served = f"served are {', '.join(BLOCKS)}"
        raise bad_request(f"`{where}.type` is {str(kind)[:40]!r}; {served}.", f"{where}.type", "unsupported_parameter")
    if kind in ("tool_use", "tool_result"):
        if not has_tools:
            raise _refused(where, "is not served: the model's chat template has no tools")
        wrong = role != ("assistant" if kind == "tool_use" else "user")
        name = "name" if kind == "tool_use" else "tool_use_id"
        if wrong or not isinstance(block.get(name), str) or not isinstance(block.get("input", {}), dict):
            whose = "an assistant's" if kind == "tool_use" else "a user's"
            raise bad_request(f"`{where}` must be of {whose} message and have a `{name}`.", where)
    return str(kind)


def _texts(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"`{where}` must be a text or a list of text blocks.", where)
    return "".join(_text(block, f"{where}[{at}]") for at, block in enumerate(content))


def _text(block: Any, where: str) -> str:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        raise bad_request(f"`{where}` must be a text block: this model reads texts alone.", where, "unsupported_parameter")
    return block["text"]


def _tool(tool: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(tool, dict) or tool.get("type") not in (None, "custom"):
        raise bad_request(f"`{where}` must be a tool that the client runs, with `name` and `input_schema`.", where)
    return named(tool, where, "input_schema")


def _refused(name: str, why: str) -> Refused:
    return bad_request(f"`{name}` {why}.", name, "unsupported_parameter")
