"""Events of streams as vLLM sends them: what the client sees, what it is charged, and how an answer goes on."""

from __future__ import annotations

import json

import pytest

from raylm.serve.gateway.trail import CHAT, COMPLETIONS, Trail, continues

ROLE = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant",'
    b'"content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":[7,8,9]}\n\n'
)
EVENTS = [
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null,"token_ids":[5]}]}\n\n',
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop","token_ids":[2]}]}\n\n',
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]
ASKED = {"model": "m", "messages": [], "stream": True}


def test_usage_of_a_stream_is_counted_and_shown_only_where_it_was_asked_for():
    for shows in (False, True):
        for size in (1, 7, 100_000):
            trail = Trail(CHAT, {**ASKED, "stream_options": {"include_usage": shows}}, 100)
            text = ROLE + EVENTS[0]
            passed = b"".join(trail.see(text[at : at + size]) for at in range(0, len(text), size))
            assert b"token_ids" not in passed and json.loads(passed.split(b"\n\n")[1][6:])["choices"][0]["delta"] == {
                "content": "Hi"
            }
            # a client that leaves here is charged for what it had
            assert trail.tokens == (3, 1) and not trail.ended
            text = b"".join(EVENTS[1:])
            passed = b"".join(trail.see(text[at : at + size]) for at in range(0, len(text), size))
            assert trail.tokens == (3, 2) and trail.ended
            assert (b'"usage"' in passed) is shows and passed.endswith(b"data: [DONE]\n\n")


def test_vllm_is_asked_for_tokens_and_usage_whatever_the_client_asked():
    sent = json.loads(Trail(CHAT, {**ASKED, "stream_options": {"continuous_usage_stats": True}}, 100).request())
    assert sent == {
        **ASKED, "return_token_ids": True, "stream_options": {"continuous_usage_stats": True, "include_usage": True},
    }  # fmt: skip


def test_text_that_looks_like_a_key_stays():
    trail = Trail(COMPLETIONS, {"prompt": [1], "stream": True}, 100)
    text = '","token_ids":[5]},"prompt_token_ids":[1],"usage":{"prompt_tokens":9'
    event = (
        b"data: "
        + json.dumps(
            {"id": "x", "choices": [{"index": 0, "text": text, "prompt_token_ids": [1], "token_ids": [5]}]}, separators=(",", ":")
        ).encode()
    )
    passed = trail.see(event + b"\n\n")
    assert json.loads(passed[6:])["choices"][0] == {"index": 0, "text": text} and trail.tokens == (1, 1)


def test_several_choices_are_counted_together():
    trail = Trail(COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "stream": True}, 100)
    for index in range(4):
        ids = ',"prompt_token_ids":[1,2]' if index in (0, 2) else ""
        trail.see(f'data: {{"id":"x","choices":[{{"index":{index},"text":"t"{ids},"token_ids":[5,6]}}]}}\n\n'.encode())
    assert trail.tokens == (4, 8) and trail.resume() is None
    # one of them at its end is not all of them
    trail.see(b'data: {"id":"x","choices":[{"index":0,"text":"","finish_reason":"stop","token_ids":[2]}]}\n\n')
    assert trail.resume() is None


@pytest.mark.parametrize(
    ("path", "fields", "may"),
    [
        (CHAT, {"messages": [], "temperature": 0.7, "top_p": 0.9, "max_tokens": 5, "n": 1, "user": "x"}, True),
        (CHAT, {"messages": [], "tools": [{"type": "function"}]}, False),
        (CHAT, {"messages": [], "response_format": {"type": "json_object"}}, False),
        (CHAT, {"messages": [], "response_format": {"type": "text"}, "stop": None, "logprobs": False}, True),
        (CHAT, {"messages": [], "n": 2}, False),
        (CHAT, {"messages": [], "seed": 1}, False),
        (CHAT, {"messages": [], "seed": 1, "temperature": 0}, True),
        (CHAT, {"messages": [], "stop": ["x"]}, False),
        (CHAT, {"messages": [], "presence_penalty": 0.5}, False),
        (CHAT, {"messages": [], "what_comes_next_year": 1}, False),
        (COMPLETIONS, {"prompt": "x"}, True),
        (COMPLETIONS, {"prompt": [1, 2]}, True),
        (COMPLETIONS, {"prompt": ["x"]}, False),
        (COMPLETIONS, {"prompt": "x", "echo": True}, False),
        (COMPLETIONS, {"prompt": "x", "logprobs": 0}, False),
    ],
)
def test_what_can_go_on(path, fields, may):
    assert continues(path, fields) is may


def test_an_answer_goes_on_after_what_was_seen():
    trail = Trail(CHAT, {**ASKED, "temperature": 0.5, "max_tokens": 10, "min_tokens": 4}, 12)
    half = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":null,"token_ids":[6]}]}\n\n'
    trail.see(ROLE + EVENTS[0] + half)
    path, body = trail.resume() or ("", None)
    assert body is not None
    # the half character is made anew; 12 tokens of the model less 3 of the prompt and 1 that was seen
    assert (path, json.loads(body)) == (
        COMPLETIONS,
        {"model": "m", "temperature": 0.5, "prompt": [7, 8, 9, 5], "max_tokens": 8, "min_tokens": 3, "stream": True,
         "return_token_ids": True, "stream_options": {"include_usage": True}},
    )  # fmt: skip
    told = trail.see(
        b'data: {"id":"y","object":"text","choices":[{"index":0,"text":"!","finish_reason":"stop","token_ids":[6,2]}]}\n\n'
    )
    event = json.loads(told[6:])
    assert (event["id"], event["object"]) == ("x", "chat.completion.chunk")
    assert event["choices"] == [
        {"index": 0, "delta": {"content": "!"}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert trail.tokens == (3, 3)
    # it dies once more, behind the last word
    assert trail.resume() == (CHAT, None) and trail.last() == b"data: [DONE]\n\n"


def test_thoughts_and_calls_are_not_continued():
    for delta in (b'{"reasoning":"hm"}', b'{"tool_calls":[]}', b"{}"):
        trail = Trail(CHAT, ASKED, 100)
        trail.see(
            ROLE + b'data: {"id":"x","choices":[{"index":0,"delta":' + delta + b',"finish_reason":null,"token_ids":[6]}]}\n\n'
        )
        trail.see(EVENTS[0])
        assert trail.resume() is None


def test_the_end_that_vllm_puts_behind_an_error_is_not_the_answers():
    trail = Trail(CHAT, ASKED, 100)
    trail.see(ROLE + EVENTS[0])
    died = b'data: {"error":{"message":"","type":"service_unavailable_error","param":null,"code":"engine_restarting"}}\n\n'
    # in one piece, as it comes when the machine is busy
    assert trail.see(died + b"data: [DONE]\n\n") == b""
    assert (trail.broken, trail.ended) == (True, False)
    assert trail.resume() is not None
    assert trail.see(b'data: {"id":"y","choices":[{"index":0,"text":"!","finish_reason":"stop","token_ids":[6]}]}\n\n') != b""
    assert trail.see(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
