"""What the app of a replica answers, asked with the clients of OpenAI and Anthropic, on one tiny engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylm.model.load import load_tokenizer
from raylm.serve.auth import KEYED, OPEN
from tests.serve.in_process import KEY, ask

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
HI: Any = [{"role": "user", "content": "hi"}]
CITY: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def client(tiny):
    from openai import OpenAI

    return OpenAI(base_url=tiny.url, api_key=KEY, max_retries=0, timeout=60)


@pytest.fixture
def anthropic(tiny):
    from anthropic import Anthropic

    return Anthropic(base_url=tiny.url.removesuffix("/v1"), api_key=KEY, max_retries=0, timeout=60)


def test_models_have_lineage_and_no_path(tiny, client):
    (model,) = client.models.list().data
    assert model.id == "raylm" and model.model_extra["metadata"] == {"fingerprint": "f00d", "job": "quickstart"}
    assert client.models.retrieve("raylm").model_extra["max_model_len"] == 512
    status, body = ask(tiny.url, "/v1/models/nobody")
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    for path in ("/v1/models", "/v1/models/raylm", "/metrics", "/version"):
        assert str(tiny.model.parent) not in ask(tiny.url, path)[1]


def test_no_other_route_of_vllms_is_there(tiny):
    """vLLM's own app pauses engines, loads adapters, renders prompts: whatever it has that is not listed is not there."""
    routes = [
        (route.path, method) for route in tiny.served.inner.routes for method in sorted(getattr(route, "methods", None) or "")
    ]
    assert len(routes) > 30
    closed = [(path, method) for path, method in routes if path not in {**OPEN, **KEYED} and not path.startswith("/v1/models/{")]
    assert {"/invocations", "/inference/v1/generate", "/v1/chat/completions/render"} <= {path for path, _ in closed}
    for path, method in closed:
        body = {} if method == "POST" else None
        status, text = ask(tiny.url, path, body, method=method)
        assert status == 404, path
        told = json.loads(text) if method != "HEAD" else {}
        # what lies below /v1/messages hears it in Anthropic's shape
        assert not told or told.get("type") == "error" or told["error"]["code"] == "unknown_url"
        assert ask(tiny.url, path, body, key="wrong", method=method)[0] == 401


def test_completions(client):
    asked: dict[str, Any] = {"model": "raylm", "prompt": "hello there", "max_tokens": 6}
    drawn = [client.completions.create(**asked, n=3, seed=7, temperature=1.0) for _ in range(2)]
    texts = [[choice.text for choice in each.choices] for each in drawn]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
    echo: Any = client.completions.create(**asked, echo=True, logprobs=2, temperature=0).choices[0]
    assert echo.text.startswith("hello there") and echo.logprobs.token_logprobs[0] is None
    assert all(each < 0 for each in echo.logprobs.token_logprobs[1:])
    whole = client.completions.create(**asked, temperature=0).choices[0].text
    stopped = client.completions.create(**asked, temperature=0, stop=[whole[2:4]]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == whole[: whole.index(whole[2:4])]
    streamed = list(client.completions.create(**asked, temperature=0, stream=True))
    assert "".join(each.choices[0].text for each in streamed) == whole


def test_tokens_are_the_tokenizers_own(tiny):
    tokenizer = load_tokenizer(str(tiny.model))
    ids = json.loads(ask(tiny.url, "/tokenize", {"prompt": "hello there", "add_special_tokens": False})[1])["tokens"]
    assert ids == tokenizer.encode("hello there", add_special_tokens=False)
    assert json.loads(ask(tiny.url, "/detokenize", {"tokens": ids})[1])["prompt"] == "hello there"


def test_thoughts_are_told_apart(tiny):
    asked = {"model": "raylm", "messages": HI, "max_tokens": 8, "temperature": 0}
    turn = json.loads(ask(tiny.thinks, "/v1/chat/completions", asked)[1])["choices"][0]["message"]
    # a model that never closes its thought has not answered yet
    assert turn["content"] is None and len(turn["reasoning_content"]) > 0
    events = ask(tiny.thinks, "/v1/chat/completions", {**asked, "stream": True})[1].split("\n\n")
    chunks = [json.loads(event[6:])["choices"][0]["delta"] for event in events if event.startswith("data: {")]
    assert "".join(delta.get("reasoning_content", "") for delta in chunks) == turn["reasoning_content"]
    plain = {**asked, "chat_template_kwargs": {"enable_thinking": False}}
    turn = json.loads(ask(tiny.thinks, "/v1/chat/completions", plain)[1])["choices"][0]["message"]
    assert turn["content"] and not turn["reasoning"]


def test_responses(client):
    asked: dict[str, Any] = {"model": "raylm", "input": "hello", "instructions": "be kind", "temperature": 0}
    whole = client.responses.create(**asked, max_output_tokens=6)
    assert whole.status == "incomplete" and whole.output_text and whole.usage.output_tokens == 6
    events = list(client.responses.create(**asked, max_output_tokens=6, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")
    tool: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
    named: Any = {"type": "function", "name": "weather"}
    (call,) = client.responses.create(**asked, max_output_tokens=40, tools=[tool], tool_choice=named).output
    assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")
    turns: Any = [{"role": "user", "content": "x"}, call.model_dump(exclude_none=True)]
    turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "4 degrees"})
    assert client.responses.create(**{**asked, "input": turns}, max_output_tokens=4, tools=[tool]).usage.output_tokens == 4
    form: Any = {"format": {"type": "json_schema", "name": "k", "schema": CITY}}
    made = client.responses.create(**asked, max_output_tokens=40, text=form).output_text
    assert json.loads(made)["city"] in ("Oslo", "Rome") and " " not in made


def test_responses_are_refused_in_words(client):
    import openai

    for fields in ({"store": True}, {"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="raylm", input="x", **fields)
        told: Any = refused.value.body
        assert told["param"].startswith(next(iter(fields)))


def test_messages(anthropic):
    # this client has no field for it any more; the route has
    asked: dict[str, Any] = {"model": "raylm", "messages": HI, "system": "be kind", "extra_body": {"temperature": 0}}
    whole = anthropic.messages.create(**asked, max_tokens=6)
    assert whole.stop_reason == "max_tokens" and whole.content[0].text and whole.usage.output_tokens == 6
    with anthropic.messages.stream(**asked, max_tokens=6) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
    assert anthropic.messages.count_tokens(model="raylm", messages=HI, system="be kind").input_tokens == whole.usage.input_tokens
    tools: Any = [{"name": "weather", "input_schema": CITY}]
    named: Any = {"type": "tool", "name": "weather"}
    called = anthropic.messages.create(**asked, max_tokens=40, tools=tools, tool_choice=named)
    (use,) = called.content
    assert called.stop_reason == "tool_use" and use.input["city"] in ("Oslo", "Rome")
    answer: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "4 degrees"}]
    turns: Any = [*HI, {"role": "assistant", "content": [use.model_dump()]}, {"role": "user", "content": answer}]
    assert anthropic.messages.create(**{**asked, "messages": turns}, max_tokens=4, tools=tools).usage.output_tokens == 4


def test_messages_are_refused_in_their_own_shape(tiny, anthropic):
    import anthropic as sdk

    with pytest.raises(sdk.BadRequestError, match="max_tokens"):
        anthropic.messages.create(model="raylm", messages=HI, max_tokens=10_000)
    with pytest.raises(sdk.NotFoundError):
        anthropic.messages.create(model="nobody", messages=HI, max_tokens=4)
    with pytest.raises(sdk.AuthenticationError):
        anthropic.with_options(api_key="wrong").messages.create(model="raylm", messages=HI, max_tokens=4)
    for fields in ({"messages": HI, "max_tokens": 4, "temperature": -3}, {"messages": 5, "max_tokens": 4}):
        status, body = ask(tiny.url, "/v1/messages", {"model": "raylm", **fields})
        told = json.loads(body)
        assert status == 400 and (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", lambda form: {"input": "x", "text": {"format": {**form, "name": "k"}}}),
        ("/v1/messages", lambda form: {"messages": HI, "max_tokens": 4, "output_config": {"format": form}}),
    ],
)
def test_schemas_of_each_route_are_bounded(tiny, path, fields):
    wide = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(3000)}}
    # small, and its states multiply
    deep = {"allOf": [{"type": "string", "pattern": f".*a{at}.*"} for at in range(100)]}
    for schema in (wide, deep, {"type": "object", "properties": 5}):
        status, body = ask(tiny.url, path, {"model": "raylm", **fields({"type": "json_schema", "schema": schema})})
        assert status == 400, body
    assert ask(tiny.url, "/health")[0] == 200
