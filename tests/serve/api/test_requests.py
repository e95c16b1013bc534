"""Requests that one client must not make, each refused in words, and the ordinary ones that pass."""

from __future__ import annotations

import json
import time

import pytest

from raylm.serve.api.requests import Reader
from raylm.serve.config import Limits
from raylm.serve.envelope import Refused

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def rendered(messages, extra):
    """A template as many are: it knows three roles, and a system message in the first place only."""
    turns = [m for at, m in enumerate(messages) if m["role"] in ("user", "assistant") or (m["role"] == "system" and at == 0)]
    return "".join(f"<|{turn['role']}|>{(turn['content'] or '').strip()}" for turn in turns)


def refusal(path=CHAT, body=None, *, limits=None, **fields):
    """What is refused of a request. Fails when it passes."""
    asked = body if body is not None else {"model": "raylm", **({"messages": HI} if path == CHAT else {}), **fields}
    try:
        Reader(limits or Limits(), 512, 1000, rendered).check(
            path, asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        )
    except Refused as refused:
        return refused.refusal
    raise AssertionError("nothing was refused")


def passes(*args, **options):
    """Whether nothing is refused."""
    with pytest.raises(AssertionError, match="nothing was refused"):
        refusal(*args, **options)
    return True


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 16, "top_logprobs": 20, "logprobs": True, "max_tokens": 512, "seed": 2**62, "temperature": 0.0},
        {
            "stop": ["a", "b"],
            "logit_bias": {"5": 1.0},
            "user": "me",
            "metadata": {"a": {"b": "c"}},
            "tools": [],
            "tool_choice": "none",
        },
        {"messages": [{"role": "system", "content": "be kind"}, *HI, {"role": "assistant", "content": None}, *HI]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "naïve"}, {"type": "text", "text": "🙂"}]}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {}}}}}},
        {"structured_outputs": {"choice": [f"label {at}" for at in range(1000)]}},
    ],
)
def test_ordinary_requests_pass(fields):
    assert passes(**fields)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b"\xff{}", "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": 1e999}', "out of range"),
        (b'{"top_k": 1180591620717411303424}', "out of range"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"user": "\\ud800"}', "surrogate"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "64 levels"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_bodies_that_cannot_be_read(body, words):
    refused = refusal(body=body)
    assert refused.status == 400
    assert words in refused.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 17}, "n"),
        ({"n": 1e9}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_completion_tokens": 10**12}, "max_completion_tokens"),
        ({"min_tokens": 10**6}, "min_tokens"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": "a" * 2000}, "stop"),
        ({"bad_words": ["a"] * 65}, "bad_words"),
        ({"stop_token_ids": [1000]}, "stop_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"logit_bias": {str(at): 1 for at in range(2000)}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"vllm_xargs": {"kv_transfer_params": 5}}, "vllm_xargs"),
        ({"priority": -1}, "priority"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"structured_outputs": 5}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"messages": 5}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "banana", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages[0]"),
        ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "messages[1]"),
    ],
)
def test_what_is_refused_names_its_field(fields, param):
    refused = refusal(**fields)
    assert (refused.status, refused.param) == (400, param)
    assert "--" not in refused.message
    assert "vLLM" not in refused.message


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "answer in French"}, *HI],
        [*HI, {"role": "system", "content": "answer in French"}],
        [*HI, {"role": "system", "content": [{"type": "text", "text": "answer in French"}]}],
    ],
)
def test_a_message_that_the_template_leaves_out_is_refused(messages):
    refused = refusal(messages=messages)
    assert refused.code == "message_left_out"
    assert "chat template leaves out" in refused.message


@pytest.mark.parametrize("form", ["response_format", "structured_outputs", "text"])
def test_large_schemas_are_refused_at_once(form):
    schema = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(3000)}}
    nested = {"type": "object", "properties": {f"p{at}": {"anyOf": [{"type": "string"}] * 9} for at in range(50)}}
    for each in (schema, nested, {"type": "string", "enum": [f"value {at}" for at in range(9000)]}):
        asked = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "k", "schema": each}},
            "structured_outputs": {"json": each},
            "text": {"format": {"type": "json_schema", "name": "k", "schema": each}},
        }[form]
        started = time.monotonic()
        assert refusal("/v1/responses" if form == "text" else CHAT, **{form: asked}).code == "schema_too_large"
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "asked",
    [{"regex": "a" * 70_000}, {"grammar": "x" * 70_000}, {"choice": ["a"] * 2000}, {"json": json.dumps({"anyOf": [{}] * 500})}],
)
def test_other_structures_have_limits_too(asked):
    assert refusal(structured_outputs=asked).code == "schema_too_large"


def test_tokenizing_has_a_smaller_limit():
    assert refusal("/tokenize", {"prompt": "word " * 300_000}).status == 413
    assert refusal("/detokenize", {"tokens": [5] * 400_000}).status == 413
    assert passes("/tokenize", {"prompt": "word " * 100_000})
    assert refusal("/detokenize", {"tokens": [5, -1]}).param == "tokens"


def test_prompts_are_counted_and_their_tokens_known():
    path = "/v1/completions"
    assert passes(path, prompt=["a"] * 128)
    assert passes(path, prompt=[1, 2, 3])
    assert refusal(path, prompt=["a"] * 129).param == "prompt"
    assert refusal(path, prompt=[1, 1000]).param == "prompt"
    assert refusal(path, prompt=[[1], [-1]]).param == "prompt"


def test_responses_are_read_alike():
    path = "/v1/responses"
    assert passes(path, input="hi")
    assert passes(path, input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}])
    assert refusal(path, input=[{"type": "function_call_output", "call_id": "1", "output": "4"}]).status == 400
    assert refusal(path, input="hi", max_output_tokens=513).param == "max_output_tokens"
    assert refusal(path, input="hi", background=True).param == "background"


def test_limits_are_keys():
    assert refusal(limits=Limits(num_choices=2), n=3).param == "n"
    assert (
        refusal(limits=Limits(json_depth=8), metadata={"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}).code
        == "nested_too_deeply"
    )


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/v1/rerank", "/nowhere"])
def test_a_model_serves_the_routes_of_its_task(path):
    refused = refusal(path, input="x")
    assert (refused.status, refused.code) == (404, "route_not_served")
    assert "/v1/chat/completions" in refused.message
