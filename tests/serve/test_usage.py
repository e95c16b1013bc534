"""Answers as vLLM sends them: the tokens that are read of them, and what the client sees."""

from __future__ import annotations

import asyncio
import json

from raylm.serve.door import Entry, FrontDoor
from raylm.serve.guards.guard import Admission
from raylm.serve.usage import Counter, Done, Shown, asking_usage

PLAIN = (
    b'{"choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}}],'
    b'"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3},"x":null}'
)
EVENTS = [
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]


def test_usage_is_read_from_whole_answers_in_any_pieces():
    for size in (1, 7, 1000):
        counter = Counter(Shown())
        passed = b"".join(counter.see(PLAIN[at : at + size], False) for at in range(0, len(PLAIN), size))
        assert passed == PLAIN and (counter.prompt_tokens, counter.completion_tokens) == (12, 3)


def test_usage_of_a_stream_is_seen_and_shown_only_where_it_was_asked():
    each = (
        b'data: {"id":"x","choices":[{"delta":{"content":"Hi"}}],'
        b'"usage":{"prompt_tokens":7,"total_tokens":8,"completion_tokens":1}}\n\n'
    )
    for shown in (Shown(False, False), Shown(True, False), Shown(True, True)):
        counter = Counter(shown)
        passed = counter.see(each, True)
        # a client that leaves here is charged for what it had
        assert (counter.prompt_tokens, counter.completion_tokens, counter.ended) == (7, 1, False)
        assert json.loads(passed[6:]) == json.loads(each[6:]) if shown.in_each else b"usage" not in passed and b"Hi" in passed
        passed = b"".join(counter.see(event, True) for event in EVENTS)
        assert (counter.prompt_tokens, counter.completion_tokens, counter.ended) == (7, 2, True)
        assert passed == b"".join(event for event in EVENTS if shown.at_end or b'"choices":[]' not in event)


def test_responses_count_input_and_output():
    counter = Counter(Shown())
    event = (
        b'event: response.completed\ndata: {"response":{"usage":'
        b'{"input_tokens":4,"input_tokens_details":{"cached_tokens":0},"output_tokens":6}}}\n\n'
    )
    counter.see(event, True)
    assert (counter.prompt_tokens, counter.completion_tokens) == (4, 6)


def test_a_stream_is_asked_for_its_usage_once():
    path = "/v1/chat/completions"
    body, shown = asking_usage(path, b'{"stream": true, "n": 1, "stream_options": {"continuous_usage_stats": true}}')
    assert shown == (False, False)
    every = {"continuous_usage_stats": True, "include_usage": True}
    assert json.loads(body)["stream_options"] == every
    body, shown = asking_usage(path, b'{"stream": true, "stream_options": {"include_usage": true}}')
    assert shown == (True, False) and json.loads(body)["stream_options"] == every
    for same in (b'{"stream": false}', b"{}", b'"stream"', b"[1"):
        assert asking_usage(path, same) == (same, (True, True))
    assert asking_usage("/v1/responses", b'{"stream": true}')[0] == b'{"stream": true}'


def through(app, body, leaves=False):
    """What the client got, and what was told at the end."""
    told, sent = [], []

    async def done(one: Done, model: str, text: bytes) -> None:
        told.append((one, model, text))

    async def receive():
        if not sent and not told:
            sent.append(None)
            return {"type": "http.request", "body": body, "more_body": False}
        if leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        return {}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(FrontDoor(app, Entry(None, {}, done=done))(scope, receive, send))
    return b"".join(message.get("body", b"") for message in sent if message), told


def streaming(events, waits=0.0):
    async def app(scope, receive, send):
        seen = json.loads((await receive())["body"])
        assert seen["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(waits)
        await send({"type": "http.response.body", "body": b""})

    return app


def test_what_a_stream_cost_is_told_at_its_end():
    body = b'{"model": "m", "stream": true}'
    got, [(done, model, text)] = through(streaming(EVENTS), body)
    assert got == EVENTS[0] + EVENTS[1] + EVENTS[3]
    assert (done.status, done.prompt_tokens, done.completion_tokens, done.tokens) == (200, 7, 2, 9)
    assert (model, text, done.visit.number != "") == ("m", body, True) and 0 <= done.first_s <= done.seconds


def test_a_client_that_leaves_is_told_too():
    _, [(done, _, _)] = through(streaming(EVENTS, waits=0.05), b'{"stream": true}', leaves=True)
    assert done.status == 499


def test_a_client_that_leaves_while_the_guards_are_asked_gives_its_place_back():
    told = []

    async def done(one: Done, model: str, text: bytes) -> None:
        told.append(one)

    async def leave() -> None:
        asked, answered = asyncio.Event(), asyncio.Event()

        async def admit(visit):
            asked.set()
            await answered.wait()
            return Admission(None)

        async def receive():
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message):
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
        call = asyncio.create_task(FrontDoor(streaming([]), Entry(None, {}, admit=admit, done=done))(scope, receive, send))
        await asked.wait()
        call.cancel()
        await asyncio.sleep(0)
        answered.set()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(leave())
    assert [(one.status, one.tokens) for one in told] == [(499, 0)]
