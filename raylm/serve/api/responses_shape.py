"""The shape of /v1/responses: what of it is served, and its items as turns of a chat.

https://platform.openai.com/docs/api-reference/responses/create. Nothing is kept between requests: each brings its whole dialogue.
"""

from __future__ import annotations

from typing import Any

from raylm.serve.api.dialogue import ROLES, Turn
from raylm.serve.api.tools import Offer, arguments_of, named
from raylm.serve.envelope import Refused, bad_request

PATH = "/v1/responses"
INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")
TEXTS = ("input_text", "output_text", "text")
FORMATS = ("text", "json_object", "json_schema")
# what a server with a memory, or with tools of its own, would do
NOT_SERVED = {
    "background": "the answer comes with this request",
    "conversation": "send the whole dialogue as `input`",
    "previous_response_id": "nothing is kept; send the whole dialogue as `input`",
    "previous_input_messages": "send the whole dialogue as `input`",
    "prompt": "prompt templates are not kept here; send `input`",
    "max_tool_calls": "there are no tools that run here",
    "store": "nothing is kept; send `store: false`, or leave it out",
}


def check_fields(asked: dict[str, Any]) -> None:
    """Raises Refused for fields of /v1/responses that are not served, or are none."""
    for name, why in NOT_SERVED.items():
        if asked.get(name) not in (None, False, [], {}, ""):
            raise _refused(name, f"is not served: {why}")
    include = asked.get("include") or []
    if not isinstance(include, list) or any(each not in INCLUDED for each in include):
        raise _refused("include", f"may name {' and '.join(INCLUDED)} alone")
    if asked.get("service_tier") not in (None, "auto", "default"):
        raise _refused("service_tier", "has one level here: leave it out")
    text = asked.get("text")
    if text is not None and not isinstance(text, dict):
        raise bad_request("`text` must be an object with a `format`.", "text")
    form = (text or {}).get("format")
    if form is not None and (not isinstance(form, dict) or form.get("type") not in FORMATS):
        raise bad_request(f"`text.format.type` is one of {', '.join(FORMATS)}.", "text.format")
    if isinstance(form, dict) and form.get("type") == "json_schema" and not isinstance(form.get("schema"), dict):
        raise bad_request("`text.format.schema` must be a JSON schema.", "text.format.schema")
    if (text or {}).get("verbosity") not in (None, "medium"):
        raise _refused("text.verbosity", "is not served: say it in `instructions`")


def offer(asked: dict[str, Any]) -> Offer:
    """Tools of the request."""
    choice = asked.get("tool_choice")
    if isinstance(choice, dict):
        choice = {"type": choice.get("type"), "function": {"name": choice.get("name")}}
    return Offer(asked.get("tools"), choice, _flat)


def chat_tools(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools as a chat template is handed them; read by `offer` before."""
    kept = ("name", "description", "parameters")
    tools = asked.get("tools") or []
    return [{"type": "function", "function": {key: tool[key] for key in kept if key in tool}} for tool in tools]


def turns(asked: dict[str, Any], has_tools: bool) -> list[Turn]:
    """The dialogue. Raises Refused for items that are not served."""
    said, given = list[Turn](), asked.get("input")
    instructions = asked.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise bad_request("`instructions` must be a text.", "instructions")
        said.append(Turn("instructions", {"role": "system", "content": instructions}))
    if isinstance(given, str):
        return [*said, Turn("input", {"role": "user", "content": given})]
    if not isinstance(given, list) or not given:
        raise bad_request("`input` must be a text, or a list of items with at least one.", "input")
    for at, item in enumerate(given):
        turn = _turn(item, f"input[{at}]", has_tools)
        if turn is not None:
            said.append(turn)
    return said


def _turn(item: Any, where: str, has_tools: bool) -> Turn | None:
    if not isinstance(item, dict):
        raise bad_request(f"`{where}` must be an object.", where)
    kind = item.get("type") or "message"
    if kind == "message":
        return Turn(where, _message(item, where))
    if kind == "reasoning":
        # what a model thought before: the template decides whether it is said again
        return None
    if kind not in ("function_call", "function_call_output"):
        raise bad_request(
            f"`{where}.type` is {str(kind)[:40]!r}; served are message, reasoning, function_call and function_call_output.",
            f"{where}.type",
            "unsupported_parameter",
        )
    if not has_tools:
        raise _refused(where, "is not served: the model's chat template has no tools")
    number = item.get("call_id")
    if not isinstance(number, str) or not number:
        raise bad_request(f"`{where}.call_id` must be a text.", f"{where}.call_id")
    if kind == "function_call_output":
        return Turn(where, {"role": "tool", "tool_call_id": number, "content": _said(item.get("output"), where, "output")})
    if not isinstance(item.get("name"), str) or not isinstance(arguments_of(item), dict):
        raise bad_request(f"`{where}` must have a `name`, and `arguments` that are a JSON object.", where)
    call = {"id": number, "type": "function", "function": {"name": item["name"], "arguments": item.get("arguments")}}
    return Turn(where, {"role": "assistant", "content": None, "tool_calls": [call]})


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in ROLES:
        raise bad_request(f"`{where}.role` is {str(role)[:40]!r}; roles are {', '.join(ROLES)}.", f"{where}.role")
    return {"role": role, "content": _said(item.get("content"), where, "content")}


def _said(content: Any, where: str, field: str) -> str | list[dict[str, Any]]:
    """A text, or parts that are texts."""
    place = f"{where}.{field}"
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"`{place}` must be a text or a list of parts.", place)
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise bad_request(f"The parts of `{place}` must be objects with a `type`.", place)
        if part["type"] not in TEXTS or not isinstance(part.get("text"), str):
            raise bad_request(f"The parts of `{place}` must be texts ({', '.join(TEXTS[:2])}).", place, "unsupported_parameter")
    return [{"type": "text", "text": part["text"]} for part in content]


def _flat(tool: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        raise bad_request(
            f"`{where}` is {str(kind)[:40]!r}; tools are functions that the client runs: {{'type': 'function', 'name': ...}}.",
            where,
        )
    return named(tool, where, "parameters")


def _refused(name: str, why: str) -> Refused:
    return bad_request(f"`{name}` {why}.", name, "unsupported_parameter")
