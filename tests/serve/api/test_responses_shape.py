"""What /v1/responses takes, and what of OpenAI's it refuses in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylm.serve.api import responses_shape
from raylm.serve.api.dialogue import Turn
from raylm.serve.api.requests import Reader
from raylm.serve.api.structures import Structure
from raylm.serve.config import Limits
from raylm.serve.envelope import Refused
from tests.serve.api.test_tools import CITY, rendered

TOOL = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
CALL = {"type": "function_call", "call_id": "1", "name": "weather", "arguments": '{"city": "Oslo"}'}
ANSWER = {"type": "function_call_output", "call_id": "1", "output": "4 degrees"}


def check(has_tools=True, **fields) -> list[Structure]:
    body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    return Reader(Limits(), 512, 1000, rendered, has_tools).check("/v1/responses", body)


def test_a_dialogue_is_read_as_the_template_gets_it():
    texts = [{"type": "input_text", "text": "the weather"}]
    asked: dict[str, Any] = {
        "instructions": "be kind",
        "input": [{"role": "user", "content": texts}, {"type": "reasoning", "summary": []}, CALL, ANSWER],
    }
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert responses_shape.turns(asked, True) == [
        Turn("instructions", {"role": "system", "content": "be kind"}),
        Turn("input[0]", {"role": "user", "content": [{"type": "text", "text": "the weather"}]}),
        Turn("input[2]", {"role": "assistant", "content": None, "tool_calls": [call]}),
        Turn("input[3]", {"role": "tool", "tool_call_id": "1", "content": "4 degrees"}),
    ]
    assert responses_shape.chat_tools({"tools": [TOOL]})[0]["function"] == {"name": "weather", "parameters": CITY}
    assert check(**asked, tools=[TOOL], store=False, include=[], truncation="auto") == []


def test_what_is_compiled():
    form = {"type": "json_schema", "name": "k", "schema": CITY}
    assert check(text={"format": form}) == [Structure("json", CITY)]
    named = {"type": "function", "name": "weather"}
    body = json.dumps({"input": "x", "tools": [TOOL], "tool_choice": named}).encode()
    assert Reader(Limits(), 512, 1000, rendered, True).check("/v1/responses", body) == [Structure("json", CITY)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"text": "json"}, "text"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "k"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"instructions": 5}, "instructions"),
        ({"max_output_tokens": 513}, "max_output_tokens"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}, "input[0].content"),
        ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id"),
        ({"input": [{**CALL, "arguments": "{"}]}, "input[0]"),
        ({"input": [{**ANSWER, "output": 4}]}, "input[0].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_is_refused_names_its_field(fields, param):
    with pytest.raises(Refused) as caught:
        body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
        Reader(Limits(), 512, 1000, rendered, True).check("/v1/responses", body)
    assert (caught.value.refusal.status, caught.value.refusal.param) == (400, param)


def test_calls_of_tools_need_a_model_with_tools():
    for item in (CALL, ANSWER):
        with pytest.raises(Refused, match="has no tools"):
            check(has_tools=False, input=[item])


def test_instructions_that_the_template_leaves_out_are_refused():
    def deaf(messages, extra):
        return rendered([turn for turn in messages if turn["role"] != "system"], extra)

    with pytest.raises(Refused, match="leaves out what the system says in `instructions`"):
        Reader(Limits(), 512, 1000, deaf).check("/v1/responses", json.dumps({"input": "x", "instructions": "y"}).encode())
