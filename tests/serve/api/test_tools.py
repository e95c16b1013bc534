"""What is asked of tools: schemas, choices and turns that pass, and those that are refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylm.serve.api.requests import Reader
from raylm.serve.api.structures import Structure
from raylm.serve.config import Limits
from raylm.serve.envelope import Refused

CHAT = "/v1/chat/completions"
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TURNS = [*HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "4"}]


def rendered(messages, extra):
    """A template that writes tools, calls and their answers, but no names."""
    said = [json.dumps(extra.get("tools") or [])]
    for turn in messages:
        calls = [f"<tool_call>{call['function']['arguments']['city']}" for call in turn.get("tool_calls") or []]
        said.append(f"<|{turn['role']}|>{turn['content']}{''.join(calls)}")
    return "".join(said)


def asked(**fields) -> list[Structure]:
    body = json.dumps({"model": "m", "messages": HI, **fields}).encode()
    return Reader(Limits(), 512, 1000, rendered, True).check(CHAT, body)


def test_what_must_be_called_is_compiled():
    named = {"type": "function", "function": {"name": "weather"}}
    assert asked(tools=[WEATHER, TIME], tool_choice=named) == [Structure("json", CITY)]
    assert asked(tools=[WEATHER, TIME], tool_choice="required") == [Structure("json", {"anyOf": [CITY, {"type": "object"}]})]
    assert asked(tools=[WEATHER], tool_choice="auto") == []


def test_turns_that_call_and_answer_pass():
    assert asked(messages=TURNS, tools=[WEATHER]) == [] == asked(messages=TURNS)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"tools": {"a": 1}}, "tools", "a list"),
        ({"tools": [5]}, "tools[0]", "must be"),
        ({"tools": [WEATHER, {"type": "retrieval"}]}, "tools[1]", "must be"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name", "letters"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
            "schema",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools", "one name"),
        ({"tools": [WEATHER] * 200}, "tools", "at most 128"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice", "one of auto"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "are weather"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": {}}}}, "tool_choice", "one of auto"),
        ({"tool_choice": "required"}, "tool_choice", "the tools are none"),
        ({"functions": [{"name": "f"}]}, "functions", "old form"),
        ({"messages": [{"role": "function", "content": "4"}]}, "messages[0]", "old form"),
        ({"messages": [*HI, {"role": "tool", "content": None}]}, "messages[1].content", "text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls", "assistant"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[1].tool_calls", "`function`"),
        (
            {"messages": [*HI, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[1].tool_calls",
            "no JSON object",
        ),
    ],
)
def test_what_is_no_tool_is_refused_by_name(fields, param, said):
    with pytest.raises(Refused) as caught:
        asked(**fields)
    assert (caught.value.refusal.status, caught.value.refusal.param) == (400, param)
    assert said in caught.value.refusal.message


def test_answers_of_tools_that_a_template_leaves_out_are_refused():
    def deaf(messages, extra):
        return rendered([turn for turn in messages if turn["role"] != "tool"], extra)

    with pytest.raises(Refused, match="leaves out what the tool says"):
        Reader(Limits(), 512, 1000, deaf, True).check(CHAT, json.dumps({"messages": TURNS}).encode())


def test_other_routes_take_no_tools():
    with pytest.raises(Refused, match="/v1/responses, /v1/messages alone"):
        Reader(Limits(), 512, 1000, rendered, True).check(
            "/v1/completions", json.dumps({"prompt": "x", "tools": [WEATHER]}).encode()
        )
