"""Streams with named events that break, and go on with what another replica tells: read by Anthropic's client and OpenAI's."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from raylm.serve.engine.inner import NAMED
from raylm.serve.envelope import event, failed, restarting
from raylm.serve.gateway.named_trail import NamedTrail
from tests.serve.scripted_named import MESSAGES, RESPONSES, events_of, text_of

IDS = [11, 12, 13, 14, 15]
BODY = b'{"stream": true}'


@contextlib.contextmanager
def answering(stream: bytes) -> Iterator[str]:
    """URL of a server that answers everything with this stream."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(stream)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(path: str, stream: bytes) -> tuple[str, int, str]:
    """What the official client makes of a stream: text, tokens of the answer, and the answer's name."""
    with answering(stream) as url:
        known: Any = {"api_key": "k", "base_url": url, "max_retries": 0, "timeout": 60}
        if path == MESSAGES:
            from anthropic import Anthropic

            with Anthropic(**known) as client, client.messages.stream(model="chat", max_tokens=5, messages=[]) as told:
                made: Any = told.get_final_message()
            (block,) = made.content
            return block.text, made.usage.output_tokens, made.id
        from openai import OpenAI

        with OpenAI(**known) as client, client.responses.stream(model="chat", input="x") as told:
            final: Any = told.get_final_response()
        return final.output_text, final.usage.output_tokens, final.id


def numbers(stream: bytes) -> list[int]:
    return [json.loads(line[6:])["sequence_number"] for line in stream.splitlines() if line.startswith(b"data: ")]


def test_these_are_the_routes():
    assert NAMED == (MESSAGES, RESPONSES)


@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize("size", [7, 100_000])
def test_a_stream_passes_without_its_tokens(path, size):
    trail, stream = NamedTrail(path, BODY), b"".join(events_of(path, "a", "chat", 3, IDS))
    shown = b"".join(trail.see(stream[at : at + size]) for at in range(0, len(stream), size))
    assert b"raylm" not in shown and trail.ended and trail.tokens == (3, 5)
    assert read(path, shown) == (text_of(IDS), 5, "msg_a" if path == MESSAGES else "resp_a")


@pytest.mark.parametrize("path", NAMED)
def test_wherever_it_breaks_the_client_reads_one_whole_answer_or_is_told_that_there_is_none(path):
    pieces = events_of(path, "first", "chat", 3, IDS)
    first = next(at for at, piece in enumerate(pieces) if b"raylm-tokens" in piece)
    for cut in range(len(pieces)):
        trail = NamedTrail(path, BODY)
        shown = b"".join(trail.see(piece) for piece in pieces[:cut])
        # half an event more: nobody has seen it
        shown += trail.see(pieces[cut][:-9])
        if cut <= first:
            # nothing was said: another one begins, and the client hears of that one alone
            assert shown == b""
            trail.anew()
            shown = b"".join(trail.see(piece) for piece in events_of(path, "other", "chat", 3, IDS))
            assert read(path, shown)[2].endswith("_other")
            continue
        onward, closed = trail.resume(), b"_stop" in pieces[cut - 1] or b".done" in pieces[cut - 1].partition(b"\n")[0]
        if onward is None:
            assert closed
            continue
        if onward.body is None:
            shown += trail.last()
        else:
            had = cut - first
            assert not closed and trail.given == ",".join(map(str, IDS[:had])) and onward.body == BODY
            again = events_of(path, "second", "chat", 3, IDS)
            # that one dies before it has said anything new; a third one ends it
            trail.see(b"".join(again[: first + had - 1]))
            onward = trail.resume()
            assert onward is not None and trail.given == ",".join(map(str, IDS[:had]))
            more = b"".join(events_of(path, "third", "chat", 3, IDS))
            shown += b"".join(trail.see(more[at : at + 100]) for at in range(0, len(more), 100))
        assert read(path, shown) == (text_of(IDS), 5, "msg_first" if path == MESSAGES else "resp_first")
        assert trail.ended and trail.tokens == (3, 5) and b"second" not in shown and b"third" not in shown
        if path == RESPONSES:
            assert numbers(shown) == list(range(len(pieces)))


def test_what_says_something_else_is_not_joined_to_what_was_said():
    trail = NamedTrail(MESSAGES, BODY)
    trail.see(b"".join(events_of(MESSAGES, "a", "chat", 3, IDS)[:4]))
    assert trail.resume() is not None
    assert trail.see(b"".join(events_of(MESSAGES, "b", "chat", 3, [11, 99, 13, 14, 15]))) == b"" and trail.stuck


@pytest.mark.parametrize("path", NAMED)
def test_errors_within_a_stream(path):
    pieces = events_of(path, "a", "chat", 3, IDS)
    trail = NamedTrail(path, BODY)
    assert trail.see(b"".join(pieces[:4])) is not None
    # its engine died: no word of that for the client, who has not been told yet whether somebody goes on
    assert trail.see(event(restarting(), path) + pieces[-1]) == b"" and trail.broken
    assert trail.resume() is None if path == RESPONSES else trail.resume() is not None
    trail = NamedTrail(path, BODY)
    trail.see(b"".join(pieces[:6]))
    told = trail.see(event(failed(), path))
    assert trail.failed and trail.ended and b"event: error\n" in told
    if path == RESPONSES:
        assert numbers(told) == [6]
    # one that was to go on, and cannot
    trail = NamedTrail(path, BODY)
    trail.see(b"".join(pieces[:6]))
    assert trail.resume() is not None and trail.see(event(failed(), path)) == b"" and trail.stuck


def test_calls_of_tools_and_thoughts_keep_their_names():
    def call(name, arguments):
        at = {"output_index": 0, "item_id": f"fc_{name}"}
        item = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": "weather", "arguments": arguments}
        told = [
            ("response.output_item.added", {"output_index": 0, "item": {**item, "arguments": ""}}),
            *(("response.function_call_arguments.delta", {**at, "delta": each}) for each in ('{"city"', ': "Oslo"}')),
            ("response.function_call_arguments.done", {**at, "arguments": arguments}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            ("response.completed", {"response": {"id": f"resp_{name}", "created_at": 1, "output": [item]}}),
        ]
        return [
            b": raylm-tokens 5\n\n"
            + f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': at, **fields})}\n\n".encode()
            for at, (kind, fields) in enumerate(told)
        ]

    trail, whole = NamedTrail(RESPONSES, BODY), '{"city": "Oslo"}'
    shown = b"".join(trail.see(each) for each in call("a", whole)[:2])
    assert trail.resume() is not None
    shown += b"".join(trail.see(each) for each in call("b", whole))
    found = [json.loads(line[6:]) for line in shown.splitlines() if line.startswith(b"data: ")]
    assert "".join(each["delta"] for each in found if "delta" in each) == whole
    assert found[-2]["item"]["id"] == "fc_a" and found[-1]["response"]["output"][0]["call_id"] == "call_a"
    assert b"fc_b" not in shown and [each["sequence_number"] for each in found] == list(range(6))
