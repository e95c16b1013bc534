"""Real bodies of all routes, changed at random by a seed; and what must hold of whatever is answered to them."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from raylm.serve.envelope import TYPES, is_anthropic

HI = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
FLAT = {"type": "function", "name": "weather", "parameters": CITY}
NAMED = {"type": "function", "name": "weather"}
FORM = {"type": "json_schema", "name": "k", "schema": CITY}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 4, "temperature": 0.5, "seed": 3, "n": 2, "stop": ["\n\n"]}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1.0}}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 12, "tools": [TOOL], "tool_choice": "auto"}),
    (
        "/v1/chat/completions",
        {
            "messages": [*HI, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "4"}],
            "tools": [TOOL],
            "max_tokens": 4,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": HI,
            "max_tokens": 12,
            "response_format": {"type": "json_schema", "json_schema": {"name": "k", "schema": CITY}},
        },
    ),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 4, "structured_outputs": {"regex": "[ab]{1,3}"}}),
    ("/v1/completions", {"prompt": "hello", "max_tokens": 4, "echo": True, "logprobs": 1, "min_p": 0.1, "top_k": 5}),
    ("/v1/completions", {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 4, "stream": True, "repetition_penalty": 1.1}),
    ("/v1/responses", {"input": "hi", "instructions": "be kind", "max_output_tokens": 4, "store": False}),
    (
        "/v1/responses",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "max_output_tokens": 4, "stream": True},
    ),
    (
        "/v1/responses",
        {"input": "hi", "max_output_tokens": 12, "tools": [FLAT], "tool_choice": NAMED},
    ),
    (
        "/v1/responses",
        {"input": "hi", "max_output_tokens": 12, "text": {"format": FORM}},
    ),
    ("/v1/messages", {"messages": HI, "max_tokens": 4, "system": [{"type": "text", "text": "be kind"}], "stop_sequences": ["x"]}),
    ("/v1/messages", {"messages": HI, "max_tokens": 4, "stream": True, "top_k": 5}),
    (
        "/v1/messages",
        {"messages": HI, "max_tokens": 12, "tools": [{"name": "weather", "input_schema": CITY}], "tool_choice": {"type": "auto"}},
    ),
    ("/v1/messages/count_tokens", {"messages": HI, "system": "be kind"}),
    ("/tokenize", {"prompt": "hello there", "return_token_strs": True}),
    ("/tokenize", {"messages": HI}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/v1/embeddings", {"input": "hi"}),
)
LOOPS = {"type": "object", "properties": {"a": {"$ref": "#"}}}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.5, 1e300, 2**31, 2**63, 2**70, "", "a", "hi \U0001f642", "x" * 3000,
    "\u0000", "\u202e",
    [], {}, [[]], [None], [1, "a"], {"a": None}, {"type": "text"}, LOOPS, "(a+)+$", "../../etc/passwd", "{{ 7 * 7 }}", "<|end|>",
    [{"role": "user", "content": None}], {"role": "system", "content": "x"},
)  # fmt: skip
KEPT = ("max_tokens", "max_output_tokens")
"""Fields that are not left out: an answer without them is long."""
TEXTS = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 5000, b'{"model": "raylm", "model": 5}')
# of the code behind the door, of its machine, and of the libraries that it is made of
INTERNAL = re.compile(
    r"vllm|traceback|pydantic|starlette|fastapi|asyncio|site-packages|\.py\b|/(?:tmp|root|home)/|0x[0-9a-f]{6}|\bray::|errors\.",
    re.I,
)


class Request(NamedTuple):
    """What is sent."""

    path: str
    body: bytes
    is_valid: bool
    """Nothing was changed in it."""


def requests(seed: int, count: int, model: str = "raylm", changed: float = 0.8) -> Iterator[Request]:
    """So many requests, of which about a share of `changed` are mutated."""
    draw = random.Random(seed)
    for _ in range(count):
        path, body = draw.choice(BODIES)
        asked: Any = {"model": model, **copy.deepcopy(body)}
        if draw.random() > changed:
            yield Request(path, json.dumps(asked).encode(), path != "/v1/embeddings")
            continue
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            _mutate(asked, draw)
        text = json.dumps(asked).encode()
        if draw.random() < 0.1:
            text = _broken(text, draw)
        yield Request(path, text, False)


def _mutate(asked: dict[str, Any], draw: random.Random) -> None:
    """Change one place, at any depth."""
    places = list(_places(asked))
    holder, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.15 and isinstance(holder, dict) and key not in KEPT:
        del holder[key]
    elif kind < 0.3:
        # a field of another route, or of this one, with any value
        _, other = draw.choice(BODIES)
        asked[draw.choice([*other, "unknown_field", "guided_json", "prompt", "suffix"])] = copy.deepcopy(draw.choice(VALUES))
    elif kind < 0.35:
        deep: Any = draw.choice(VALUES)
        for _ in range(draw.choice((5, 70, 400))):
            deep = {"a": deep} if draw.random() < 0.5 else [deep]
        holder[key] = deep
    elif kind < 0.4 and isinstance(holder[key], list):
        holder[key] = holder[key] * draw.choice((2, 50, 3000))
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _broken(text: bytes, draw: random.Random) -> bytes:
    """Bytes that are no longer what somebody wrote."""
    if draw.random() < 0.3:
        return draw.choice(TEXTS)
    at = draw.randrange(len(text))
    return draw.choice(
        (text[:at], text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :], text[:at] + text[at + 1 :], text + b"}")
    )


def fault(request: Request, status: int, kind: str, body: bytes) -> str:
    """What is wrong with an answer; "" where nothing is."""
    if status == 200:
        return _stream_fault(request, body) if kind.startswith("text/event-stream") else ""
    if request.is_valid:
        return f"a valid request got {status}"
    if not 400 <= status < 500:
        return f"status {status}"
    try:
        told = json.loads(body)
    except ValueError:
        return "no JSON"
    return _envelope_fault(request.path, status, told)


def _envelope_fault(path: str, status: int, told: Any) -> str:
    error = told.get("error") if isinstance(told, dict) else None
    keys = {"type", "message"} if is_anthropic(path) else {"message", "type", "param", "code"}
    if not isinstance(error, dict) or set(error) != keys or (is_anthropic(path) and told.get("type") != "error"):
        return "no envelope"
    if not is_anthropic(path) and (
        error["type"] != TYPES.get(status, "invalid_request_error") or not isinstance(error["code"], str)
    ):
        return f"type {error['type']} and code {error['code']}"
    if not error["message"] or not isinstance(error["message"], str):
        return "no message"
    found = INTERNAL.search(error["message"])
    return f"it names {found[0]!r}: {error['message'][:200]}" if found else ""


def _stream_fault(request: Request, body: bytes) -> str:
    """A stream ends as its route says, or with one error event in its shape."""
    last = body.rstrip().split(b"\n\n")[-1]
    data = last.partition(b"data: ")[2]
    if data == b"[DONE]" or b'"response.completed"' in data or b'"response.incomplete"' in data or b'"message_stop"' in data:
        return ""
    try:
        return _envelope_fault(
            request.path, 400, {key: told for key, told in json.loads(data).items() if key in ("error", "type")}
        )
    except ValueError:
        return f"a stream ends with {last[-200:]!r}"
