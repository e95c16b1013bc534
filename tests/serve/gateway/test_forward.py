"""Requests through a gateway to replicas that answer, fail, hang and die: what the client gets."""

from __future__ import annotations

import asyncio
import json

import pytest

from raylm.serve.config import GatewaySpec
from raylm.serve.engine.resume import RESUME
from raylm.serve.gateway import gateway
from tests.serve.gateway.running import CHAT, COMPLETIONS, error, events, running, said, until
from tests.serve.gateway.test_named_trail import read
from tests.serve.scripted_named import MESSAGES, RESPONSES, text_of
from tests.serve.scripted_replica import Script, expected, next_token, prompt_ids

HI = [{"role": "user", "content": "hi"}]


def test_whole_and_streamed_answers_pass_and_token_ids_only_where_they_were_asked_for():
    async def run():
        async with running(Script()) as one:
            status, headers, body = await one.ask(COMPLETIONS, {"model": "chat", "prompt": [1, 2], "max_tokens": 4})
            assert status == 200 and expected([1, 2], 4).encode() in body
            assert (headers["x-raylm-served"], headers["x-raylm-dtype"]) == ("f00d", "float32")
            assert len(headers["x-request-id"]) == 32
            for path, asked in ((COMPLETIONS, {"prompt": [1, 2]}), (CHAT, {"messages": HI})):
                told = await one.stream(path, {**asked, "max_tokens": 4})
                assert told[-1] == "[DONE]" and "token_ids" not in str(told) and all(each["choices"] for each in told[:-1])
                options = {"stream_options": {"include_usage": True}, "return_token_ids": True}
                more = await one.stream(path, {**asked, "max_tokens": 4, **options})
                assert said(more) == said(told) and more[-2]["usage"]["completion_tokens"] == 4
                assert [token for each in more[:-2] for token in each["choices"][0].get("token_ids", [])] != []
            path, sent, inner = one.replicas[0].seen[-1]
            assert sent["return_token_ids"] and sent["stream_options"]["include_usage"]
            assert "authorization" not in {name.lower() for name in inner}

    asyncio.run(run())


def test_a_request_that_was_not_answered_is_sent_to_another_replica():
    async def run():
        for faults in (Script(dies_after=0), Script(refuses=(503, "engine_restarting"))):
            async with running(faults, Script()) as one:
                for _ in range(4):
                    status, _, body = await one.ask(COMPLETIONS, {"model": "chat", "prompt": "x", "max_tokens": 3})
                    assert status == 200 and expected("x", 3).encode() in body
                    told = await one.stream(CHAT, {"messages": HI, "max_tokens": 3})
                    assert said(told) == expected(HI, 3)
                # the one that failed was asked at most once before nobody asked it any more
                assert len(one.replicas[0].seen) <= 1

    asyncio.run(run())


def test_a_stream_whose_replica_dies_goes_on_with_the_same_words():
    async def run():
        for path, asked in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": HI})):
            for holds in (0, 3):
                scripts = Script(dies_after=5, token_s=0.002, holds_text=holds), Script(token_s=0.002, holds_text=holds)
                async with running(*scripts) as one:
                    options = {"max_tokens": 12, "stream_options": {"include_usage": True}, "min_tokens": 12, "temperature": 0}
                    # which of two idle replicas is asked is drawn
                    while not one.replicas[0].dead:
                        told = await one.stream(path, {**asked, **options})
                        assert said(told) == expected(asked.get("prompt") or HI, 12)
                        assert len({each["id"] for each in told[:-1]}) == 1 and len({each["object"] for each in told[:-1]}) == 1
                        assert [each["choices"][0]["finish_reason"] for each in told[:-2]][-1] == "length"
                        usage = told[-2]["usage"]
                        assert usage["completion_tokens"] == 12 and usage["total_tokens"] == usage["prompt_tokens"] + 12
                        assert told[-1] == "[DONE]"
                    assert one.replicas[0].dead and one.gateway._counters.resumed == 1
                    sent = next(body for path_, body, _ in one.replicas[1].seen if isinstance(body.get("prompt"), list))
                    assert sent["max_tokens"] == sent["min_tokens"] and sent["temperature"] == 0

    asyncio.run(run())


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_streams_of_named_events_go_on_too_or_end_with_an_error_of_their_own(path):
    async def run():
        asked = {"messages": HI, "max_tokens": 8} if path == MESSAGES else {"input": "x", "max_output_tokens": 8}
        ids = list(prompt_ids(asked.get("messages") or "x"))
        for _ in range(8):
            ids.append(next_token(ids))
        body = {"model": "chat", "stream": True, **asked}
        for dies in (0, 3):
            async with running(Script(dies_after=dies, token_s=0.002), Script(token_s=0.002)) as one:
                # which of two idle replicas is asked is drawn
                while not one.replicas[0].dead:
                    status, _, stream = await one.ask(path, body)
                    assert status == 200 and read(path, stream)[:2] == (text_of(ids[-8:]), 8)
                given = [headers for _, _, headers in one.replicas[1].seen if RESUME in headers]
                assert len(given) == (dies > 0) == one.gateway._counters.resumed
        async with running(Script(dies_after=3, token_s=0.002), spec=GatewaySpec(hold_s=0.2)) as one:
            _, _, stream = await one.ask(path, body)
            last = stream.rstrip().split(b"\n\n")[-1]
            assert last.startswith(b"event: error\n")
            told = json.loads(last.partition(b"data: ")[2])
            kind = told["error"]["type"]
            assert told["type"] == "error" and kind in ("overloaded_error", "service_unavailable_error")
            assert path == MESSAGES or told["sequence_number"] == 7

    asyncio.run(run())


def test_a_stream_of_which_nothing_was_seen_is_asked_anew_whatever_it_asks():
    async def run():
        # one token is held back: the client has the role alone
        async with running(Script(dies_after=1, token_s=0.05, holds_text=1000), Script()) as one:
            told = await one.stream(CHAT, {"messages": HI, "max_tokens": 6, "logprobs": True})
            assert said(told) == expected(HI, 6) and len({each["id"] for each in told[:-1]}) == 1
            roles = [each["choices"][0]["delta"].get("role") for each in told[:-1]]
            assert roles[0] == "assistant" and not any(roles[1:])

    asyncio.run(run())


def test_what_cannot_be_continued_ends_with_one_error_event():
    async def run():
        for asked in (
            {"logprobs": 2},
            {"seed": 3},
            {"stop": ["x"]},
            {"structured_outputs": {"regex": "a"}},
            {"frequency_penalty": 1},
        ):
            async with running(Script(dies_after=3, token_s=0.002), Script(token_s=0.002)) as one:
                one.replicas[1].script.refuses = (503, "draining")
                await one.control.unready("r1", "test")
                await until(lambda one=one: len(one.gateway._dispatch.view.ready("chat")) == 1)
                told = await one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 9, **asked})
                assert said(told) == expected("x", 3)
                assert (
                    told[-1]["error"]["code"] == "engine_restarting" and told[-1]["error"]["type"] == "service_unavailable_error"
                )

    asyncio.run(run())


def test_an_engine_that_says_within_a_stream_that_it_died_is_a_death():
    async def run():
        async with running(Script()) as one:
            trail_end = b'data: {"error": {"message": "x", "type": "y", "param": null, "code": "engine_restarting"}}\n\n'
            from raylm.serve.gateway.trail import Trail

            trail = Trail(COMPLETIONS, {"prompt": [1], "stream": True}, 100)
            first = b'data: {"id":"a","choices":[{"index":0,"text":" 5","prompt_token_ids":[1],"token_ids":[5]}]}\n\n'
            # what came before it in the same chunk is not lost
            assert b'" 5"' in trail.see(first + trail_end) and trail.broken
            assert trail.tokens == (1, 1) and trail.resume() is not None
            assert one.url

    asyncio.run(run())


def test_a_hung_replica_is_left_within_the_deadline():
    async def run():
        from raylm.serve.config import GatewaySpec

        spec = GatewaySpec(silence_s=0.2, first_byte_s=0.3, hold_s=5)
        async with running(Script(hangs_after=4), Script(), spec=spec) as one:
            await one.control.unready("r1", "later")
            await until(lambda: len(one.gateway._dispatch.view.ready("chat")) == 1)
            asked = asyncio.create_task(one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 9}))
            await asyncio.sleep(0.1)
            await one.control.unready("r0", "its engine hangs")
            await one.control.ready("r1")
            assert said(await asked) == expected("x", 9)
        # what waits long for its first token is not silent: the engine may have a queue
        async with running(Script(ttft_s=0.5), spec=spec.model_copy(update={"first_byte_s": 5.0})) as one:
            assert said(await one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 3})) == expected("x", 3)
            assert len(one.replicas[0].seen) == 1
        async with running(Script(hangs_after=0, ttft_s=60), Script(), spec=spec) as one:
            for _ in range(3):
                assert said(await one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 3})) == expected("x", 3)

    asyncio.run(run())


def test_a_client_that_leaves_frees_the_replica():
    async def run():
        async with running(Script(token_s=0.01)) as one:
            for streams in (True, False):
                body = {"model": "chat", "prompt": "x", "max_tokens": 500, "stream": streams}
                asked = asyncio.create_task(one.ask(COMPLETIONS, body))
                await until(lambda: one.replicas[0].running == 1)
                await asyncio.sleep(0.05)
                asked.cancel()
                await until(lambda: one.replicas[0].running == 0)
            assert one.replicas[0].left == 2
            await until(lambda: one.gateway._under_way == 0)
            assert one.gateway._dispatch.under_way("r0") == 0

    asyncio.run(run())


def test_a_request_waits_for_a_replica_that_is_started_for_it(monkeypatch):
    async def run():
        async with running() as one:
            from tests.serve.scripted_replica import ScriptedReplica

            late = ScriptedReplica("late", one.control)

            async def start(_):
                if len(one.steering.woken) == 1:
                    # Serve does not hear it the first time, and nobody else asks
                    raise ConnectionError("Serve is slow")
                await asyncio.sleep(0.1)
                await late.start()

            one.steering.on_wake = start
            monkeypatch.setattr(gateway, "POLL_S", 0.05)
            assert said(await one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 3})) == expected("x", 3)
            assert one.steering.woken == ["chat", "chat"]
            await late.stop()

    asyncio.run(run())


def test_a_replica_that_starts_again_under_its_name_is_asked_again():
    async def run():
        async with running(Script(dies_after=2)) as one:
            replica = one.replicas[0]
            asked = asyncio.create_task(one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 6}))
            await until(lambda: replica.dead)
            # the same name, another port; before the directory knew that it was gone
            replica.script.dies_after, replica.port = None, 0
            await replica.start()
            assert said(await asked) == expected("x", 6)

    asyncio.run(run())


def test_nobody_comes_is_a_503_to_retry():
    async def run():
        from raylm.serve.config import GatewaySpec

        async with running(spec=GatewaySpec(hold_s=0.1)) as one:
            status, headers, body = await one.ask(COMPLETIONS, {"model": "chat", "prompt": "x"})
            assert (status, error(body)["code"]) == (503, "unavailable") and int(headers["retry-after"]) > 0

    asyncio.run(run())


def test_a_view_outlives_control():
    async def run():
        async with running(Script()) as one:
            one.steering.gone = True
            await asyncio.sleep(0.2)
            assert said(await one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 3})) == expected("x", 3)

    asyncio.run(run())


def test_an_error_of_a_replica_passes_as_it_is():
    async def run():
        async with running(Script(refuses=(400, "bad_request"))) as one:
            for streams in (True, False):
                status, headers, body = await one.ask(COMPLETIONS, {"model": "chat", "prompt": "x", "stream": streams})
                assert (status, error(body)["code"], headers["x-raylm-served"]) == (400, "bad_request", "f00d")
            assert events(b"") == []

    asyncio.run(run())


def test_an_engine_that_dies_before_the_first_word_costs_one_replica_and_not_two():
    async def run():
        async with running(Script(dies_saying=True), Script()) as one:
            await one.control.unready("r1", "later")
            await until(lambda: len(one.gateway._dispatch.view.ready("chat")) == 1)
            asked = asyncio.create_task(one.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 9}))
            await until(lambda: one.gateway._counters._failures)
            await one.control.ready("r1")
            told = await asked
            assert said(told) == expected("x", 9) and told[-1] == "[DONE]"
            # the second one did it all, and is not blamed for what the first one said
            assert len(one.replicas[1].seen) == 1 and set(one.gateway._counters._failures) == {"r0"}

    asyncio.run(run())


def test_an_answer_that_takes_too_long_is_cut_off_and_blames_no_replica():
    async def run():
        spec = GatewaySpec(longest_s=0.5, silence_s=30, first_byte_s=30, hold_s=5)
        async with running(Script(token_s=0.02), Script(token_s=0.02), spec=spec) as one:
            body = {"model": "chat", "prompt": "x", "max_tokens": 5000, "stream": True}
            status, _, text = await one.ask(COMPLETIONS, body)
            # on a starved machine nothing of it may have come by then
            told = events(text)[-1]["error"] if status == 200 else error(text)
            assert status in (200, 504) and told["code"] == "timeout" and "0.5 s" in told["message"]
            assert sum(len(each.seen) for each in one.replicas) == 1 and not one.gateway._counters._failures

    asyncio.run(run())
