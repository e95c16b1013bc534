"""An answer that goes on behind given tokens: what leaves a wrapped engine, and what vLLM's own APIs tell of a real one."""

from __future__ import annotations

import asyncio
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest

from raylm.serve.engine.inner import INNER, NAMED
from raylm.serve.engine.resume import COMMENT, RESUME, TURN, Turn, comment_of, follow, ids_of
from raylm.serve.gateway.named_trail import NamedTrail
from tests.serve.gateway.test_named_trail import read

HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": HI, "max_tokens": 12, "temperature": 0},
    "/v1/responses": {"input": "hi", "max_output_tokens": 12, "temperature": 0},
}


def test_tokens_are_read_as_they_were_written():
    assert ids_of(comment_of([5, 6, 700])) == (5, 6, 700) == ids_of(b"5,6,700")
    assert ids_of(b"") == () == ids_of(b"5,,6") == ids_of(b"x") == ids_of(b"-1")


def test_tokens_are_told_within_a_turn_and_of_one_call_alone():
    class Engine:
        async def generate(self, prompt, params, name):
            for token in prompt:
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token])])

    async def run():
        engine: Any = Engine()
        follow(engine)

        async def said(*prompts):
            return [each.outputs[0].token_ids[0] for prompt in prompts async for each in engine.generate(prompt, None, "x")]

        assert await said([1, 2]) == [1, 2]
        TURN.set(turn := Turn())
        assert await said([3, 4]) == [3, 4] and turn.take() == comment_of([3, 4]) and turn.take() == b""
        # a second call is another answer, of which the first one's tokens are no beginning
        assert await said([5]) == [5] and turn.take() == b""

    asyncio.run(run())


def ask(tiny, path, given="", **fields):
    """What the door sends for a stream, comments and all."""
    import orjson

    address = tiny.behind[0][1]
    body = orjson.dumps({"model": "raylm", "stream": True, **ASKED[path], **fields})
    headers = {INNER: address.secret, "content-type": "application/json", **({RESUME: given} if given else {})}
    request = urllib.request.Request(f"http://{address.host}:{address.port}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return body, reply.read()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("path", NAMED)
def test_a_real_answer_that_broke_is_the_same_answer(tiny, path):
    body, stream = ask(tiny, path)
    trail = NamedTrail(path, body)
    whole = read(path, trail.see(stream))
    prompt = trail.tokens[0]
    assert trail.tokens == (prompt, whole[1]) == (prompt, 12) and prompt > 0
    pieces = [each + b"\n\n" for each in stream.split(b"\n\n")[:-1]]
    told = [at for at, piece in enumerate(pieces) if piece.startswith(COMMENT)]
    assert len(told) >= 6
    for cut in (told[1], told[len(told) // 2], told[-1]):
        trail = NamedTrail(path, body)
        shown = trail.see(b"".join(pieces[:cut]))
        onward = trail.resume()
        assert onward is not None and trail.given
        text, count, _ = read(path, shown + trail.see(ask(tiny, path, trail.given)[1]))
        # tokens of prompt and answer too are those of the whole one
        assert (text, count, trail.ended, trail.tokens) == (whole[0], 12, True, (prompt, 12))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("path", NAMED)
def test_what_an_engine_cannot_go_on_with_is_an_error_event(tiny, path):
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}}
    fields: dict[str, Any] = {"text": {"format": form}} if path == "/v1/responses" else {"stop_sequences": ["x"]}
    _, stream = ask(tiny, path, "5,6", **fields)
    trail = NamedTrail(path, b"")
    assert b"event: error\n" in stream and trail.see(stream).startswith(b"event: ") and trail.failed
