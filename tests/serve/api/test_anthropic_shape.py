"""What /v1/messages takes, what it refuses in words, and how its errors are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylm.serve.api import anthropic_shape
from raylm.serve.api.dialogue import Turn
from raylm.serve.api.requests import Reader
from raylm.serve.api.structures import Structure
from raylm.serve.config import Limits
from raylm.serve.envelope import Refusal, Refused, envelope, event, restarting
from tests.serve.api.test_tools import CITY, rendered

PATH = "/v1/messages"
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TOOL = {"name": "weather", "description": "Of a city.", "input_schema": CITY}
USE = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "4 degrees"}]}


def check(path=PATH, has_tools=True, **fields) -> list[Structure]:
    body = json.dumps({"model": "m", "max_tokens": 8, "messages": HI, **fields}).encode()
    return Reader(Limits(), 512, 1000, rendered, has_tools).check(path, body)


def test_a_dialogue_is_read_as_the_template_gets_it():
    said = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "let me see"}, USE]
    answer = {"role": "user", "content": [RESULT, {"type": "text", "text": "and now?"}]}
    asked: dict[str, Any] = {"system": [{"type": "text", "text": "be kind"}]}
    asked["messages"] = [*HI, {"role": "assistant", "content": said}, answer]
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert anthropic_shape.turns(asked, True) == [
        Turn("system", {"role": "system", "content": "be kind"}),
        Turn("messages[0]", {"role": "user", "content": "hi"}),
        Turn("messages[1]", {"role": "assistant", "content": "let me see", "tool_calls": [call]}),
        Turn("messages[2].content[0]", {"role": "tool", "tool_call_id": "1", "content": "4 degrees"}),
        Turn("messages[2]", {"role": "user", "content": "and now?"}),
    ]
    assert check(**asked, tools=[TOOL], metadata={"user_id": "me"}, thinking={"type": "disabled"}) == []
    assert check("/v1/messages/count_tokens", **asked) == []


def test_what_is_compiled():
    assert check(output_config={"format": {"type": "json_schema", "schema": CITY}}) == [Structure("json", CITY)]
    any_of = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    assert check(**any_of) == [Structure("json", {"anyOf": [CITY]})]
    assert check(tools=[TOOL], tool_choice={"type": "auto"}) == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "x"}, "container"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"thinking": "on"}, "thinking"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [USE]}]}, "messages[0].content[0]"),
        ({"messages": [*HI, {"role": "assistant", "content": [RESULT]}]}, "messages[1].content[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "no spaces", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ],
)
def test_what_is_refused_names_its_field(fields, param):
    with pytest.raises(Refused) as caught:
        body = json.dumps({"model": "m", "max_tokens": 8, "messages": HI, **fields}).encode()
        Reader(Limits(), 512, 1000, rendered, True).check(PATH, body)
    assert (caught.value.refusal.status, caught.value.refusal.param) == (400, param)


def test_errors_have_the_shape_of_the_route():
    refusal = Refusal(429, "Too many.", "rate_limit_exceeded")
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": "Too many."}}
    assert json.loads(envelope(refusal, PATH)) == said
    assert json.loads(envelope(refusal, PATH + "/count_tokens")) == said
    assert set(json.loads(envelope(refusal, "/v1/messagesx"))["error"]) == {"message", "type", "param", "code"}
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
    kinds |= {500: "api_error", 503: "overloaded_error"}
    for status, kind in kinds.items():
        assert json.loads(envelope(Refusal(status, "x", "y"), PATH))["error"]["type"] == kind


def test_a_stream_ends_with_an_event_that_its_clients_read():
    assert event(restarting(), PATH).startswith(b'event: error\ndata: {"type": "error"')
    assert event(restarting(), "/v1/chat/completions").startswith(b'data: {"error"')
    name, _, data = event(restarting(), "/v1/responses").partition(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: error"
    assert (told["type"], told["code"], told["error"]["code"]) == ("error", "engine_restarting", "engine_restarting")
