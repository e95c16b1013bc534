"""What stands before a request is forwarded: HTTP itself, bodies, guards, models, pages, origins, and the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from raylm.serve.audit import Audit
from raylm.serve.config import GatewaySpec, Limits
from raylm.serve.directory import Load
from raylm.serve.gateway import listener
from raylm.serve.gateway.settings import STAGE, ModelFacts
from raylm.serve.guards.concurrency import Concurrency
from raylm.serve.guards.request_rate import RequestRate
from raylm.serve.guards.token_budget import TokenBudget
from raylm.serve.guards.token_rate import TokenRate
from raylm.serve.keys import key_digest
from tests.serve.gateway.running import CHAT, COMPLETIONS, answer_of, error, plain, raw, running, until
from tests.serve.scripted_replica import Script

X = {"model": "chat", "prompt": "x", "max_tokens": 2}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
        HEAD + b"Content-Length: +2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
        HEAD + b"X-A: 1\r\n Folded: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Bad Name: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /health HTTP/9.1\r\nHost: x\r\n\r\n",
        b"NOT HTTP AT ALL\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused(sent):
    async def run():
        async with running(Script()) as one:
            status, headers, body = answer_of(await raw(one.port, sent))
            assert status == 400 and error(body)["type"] == "invalid_request_error"
            # the connection is closed: what follows on it is of nobody
            assert not one.replicas[0].seen and headers["content-type"].startswith("application/json")

    asyncio.run(run())


def test_no_tunnels_and_no_websockets():
    async def run():
        async with running(Script()) as one:
            upgrade = ("upgrade", "websocket"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")
            status, _, body = await plain(one.port, "GET", "/v1/models", *upgrade)
            assert (status, error(body)["code"]) == (400, "unsupported_protocol")
            told = await raw(one.port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nConnection: close\r\n\r\n")
            assert answer_of(told)[0] in (400, 404, 405)

    asyncio.run(run())


def test_a_client_that_sends_slowly_holds_nothing(monkeypatch):
    monkeypatch.setattr(listener, "HEADER_S", 0.15)
    monkeypatch.setattr(listener, "BODY_S", 0.15)
    monkeypatch.setattr(listener, "LINGER_S", 0.1)

    async def run():
        async with running(Script()) as one:
            assert await raw(one.port, b"GET /health HT", b"TP/1.1\r\nX-A", b": 1\r\n", pause_s=0.1) == b""
            slow = answer_of(await raw(one.port, HEAD + b"Content-Length: 50\r\n\r\n{", pause_s=0.0))
            assert (slow[0], error(slow[2])["code"]) == (408, "timeout")
            # one that is quick is not cut off, however long its connection stands
            assert (await one.ask("/health"))[0] == 200
            await asyncio.sleep(0.3)
            assert (await one.ask("/health"))[0] == 200

    asyncio.run(run())


def test_large_packed_and_deep_bodies_are_refused():
    async def run():
        async with running(Script(), limits=Limits(body_bytes=1500)) as one:
            status, _, body = await one.ask(COMPLETIONS, b"x" * 2000)
            assert status == 413 and "1500 bytes" in error(body)["message"]
            # one that does not say how long it is
            chunks = (
                b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
            )
            assert answer_of(await raw(one.port, HEAD + b"Connection: close\r\n" + chunks))[0] == 413
            assert (await one.ask(COMPLETIONS, b"x", content_encoding="gzip"))[0] == 415
            for body in (
                b"",
                b"[1]",
                b"{",
                b"\xff{}",
                b'{"a": NaN}',
                b'{"model": "chat", "a": ' + b"[" * 200 + b"]" * 200 + b"}",
            ):
                status, _, told = await one.ask(COMPLETIONS, body)
                assert status == 400 and error(told)["type"] == "invalid_request_error"
            assert not one.replicas[0].seen

    asyncio.run(run())


def test_a_client_that_asks_before_it_sends_is_told_to_go_on():
    async def run():
        async with running(Script()) as one:
            body = json.dumps(X).encode()
            head = HEAD + f"Expect: 100-continue\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            told = await raw(one.port, head, body, pause_s=0.05)
            assert told.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")

    asyncio.run(run())


def test_what_is_the_clients_own_goes_no_further():
    async def run():
        async with running(Script(), key_digest=key_digest("k")) as one:
            headers = {
                "authorization": "Bearer k",
                "x_raylm_inner": "guess",
                "cookie": "a=b",
                "connection": "x-secret",
                "te": "trailers",
            }
            status, said, _ = await one.ask(
                COMPLETIONS, X, x_request_id="mine-1", traceparent="00-1-2-01", x_raylm_stage="guess", **headers
            )
            assert status == 200 and said["x-request-id"] == "mine-1"
            got = {name.lower(): value for name, value in one.replicas[0].seen[0][2].items()}
            assert set(got) == {"host", "x-raylm-inner", "x-request-id", "content-type", "traceparent", "content-length"}
            assert got["x-raylm-inner"] == one.replicas[0].address.secret and got["x-request-id"] != "mine-1"
            # no name for a request that a log would read as a line of its own
            assert (await one.ask("/health", x_request_id="a b"))[1]["x-request-id"] != "a b"

    asyncio.run(run())


def test_guards_count_what_was_made_also_for_those_who_leave():
    async def run():
        guards = (RequestRate(per_minute=4), TokenRate(per_minute=10_000))
        async with running(Script(token_s=0.01), guards=guards) as one:
            _, headers, _ = await one.ask(COMPLETIONS, X)
            assert headers["x-ratelimit-remaining-requests"] == "3" and headers["x-ratelimit-remaining-tokens"] == "10000"
            asked = asyncio.create_task(one.ask(COMPLETIONS, {**X, "stream": True, "max_tokens": 300}))
            await asyncio.sleep(0.15)
            asked.cancel()
            await until(lambda: one.gateway._under_way == 0)
            _, headers, _ = await one.ask(CHAT, {"model": "chat", "messages": [], "max_tokens": 1})
            used = 10_000 - int(headers["x-ratelimit-remaining-tokens"])
            # three of the first answer; a prompt of one and some tokens of the one that was left
            assert 3 + 1 + 3 < used < 3 + 1 + 40
            assert (await one.ask(COMPLETIONS, b"[1]"))[0] == 400
            status, headers, body = await one.ask(COMPLETIONS, b"[1]")
            # a request that a guard refuses is not read
            assert (status, error(body)["code"]) == (429, "rate_limit_exceeded") and int(headers["retry-after"]) > 0
            assert (await one.ask("/health"))[0] == 200

    asyncio.run(run())


def test_several_gateways_ask_the_guards_at_control_and_admit_nobody_without_it():
    async def run():
        guards = (RequestRate(per_minute=1),)
        async with running(Script(), guards=guards, control_guards=guards, guards_at_control=True) as one:
            assert [(await one.ask(COMPLETIONS, X))[0] for _ in range(2)] == [200, 429]
            one.steering.gone = True
            status, _, body = await one.ask(COMPLETIONS, X)
            assert (status, error(body)["code"]) == (503, "unavailable")

    asyncio.run(run())


def test_the_stage_itself_passes_the_guards():
    async def run():
        async with running(Script(), guards=(RequestRate(per_minute=1),), stage_digest=key_digest("secret")) as one:
            for _ in range(3):
                assert (await one.ask(COMPLETIONS, X, **{STAGE: "secret"}))[0] == 200
            assert [(await one.ask(COMPLETIONS, X, **{STAGE: "guess"}))[0] for _ in range(2)] == [200, 429]

    asyncio.run(run())


def test_several_models_behind_one_door():
    async def run():
        models = ModelFacts("chat", "model", least=0), ModelFacts("small", "model1", routes=(COMPLETIONS,))
        async with running(Script(), Script(), models=models, names=("chat", "small")) as one:
            one.replicas[0].adapters = ("polite",)
            await one.control.register(one.replicas[0].address._replace(adapters=("polite",), lineage={"job": "j"}))
            await until(lambda: "polite" in one.gateway._dispatch.models())
            for model, at in (("chat", 0), ("small", 1), ("polite", 0)):
                before = len(one.replicas[at].seen)
                assert (await one.ask(COMPLETIONS, {**X, "model": model}))[0] == 200
                assert len(one.replicas[at].seen) == before + 1
            status, _, body = await one.ask(COMPLETIONS, {**X, "model": "gpt-9"})
            assert (status, error(body)["code"]) == (404, "model_not_found") and "`small`" in error(body)["message"]
            assert (await one.ask(COMPLETIONS, {"prompt": "x"}))[0] == 400
            status, _, body = await one.ask(CHAT, {"model": "small", "messages": []})
            assert (status, error(body)["code"]) == (400, "model_not_supported")
            listed = json.loads((await one.ask("/v1/models"))[2])["data"]
            assert [(each["id"], each["parent"]) for each in listed] == [("chat", None), ("small", None), ("polite", "chat")]
            assert listed[0]["metadata"]["job"] == "j"
            assert (await one.ask("/v1/models/polite"))[0] == 200 and (await one.ask("/v1/models/x"))[0] == 404
            status, _, body = await one.ask("/health")
            assert status == 200 and json.loads(body)["models"]["small"]["ready"]
            await one.control.unready("r1", "the engine died")
            await until(lambda: not one.gateway._dispatch.view.ready("small"))
            status, _, body = await one.ask("/health")
            told = json.loads(body)["models"]["small"]
            assert status == 503 and (told["live"], told["engine"], told["ready"]) == (True, False, False)
            await one.control.leave("r0")
            await until(lambda: not one.gateway._dispatch.view.ready("chat"))
            assert json.loads((await one.ask("/health"))[2])["models"]["chat"]["asleep"]

    asyncio.run(run())


def test_metrics_are_of_the_gateway_and_of_all_replicas():
    async def run():
        async with running(Script(), Script()) as one:
            await one.ask(COMPLETIONS, X)
            await one.control.beat("r0", Load(running=3))
            await until(lambda: any(row.load.running == 3 for row in one.gateway._dispatch.view.replicas) or True)
            page = (await one.ask("/metrics"))[2].decode()
            assert 'raylm_gateway_requests_total{model="chat",path="/v1/completions",status="200"} 1' in page
            assert 'raylm_gateway_tokens_total{model="chat",kind="completion"} 2' in page
            assert page.count("# TYPE vllm:num_requests_running gauge") == 1
            for name in ("r0", "r1"):
                assert f'vllm:num_requests_running{{engine="0",replica="{name}"}} 0' in page
                assert f'raylm_replica_state{{model="chat",replica="{name}",state="ready"}} 1' in page

    asyncio.run(run())


def test_only_pages_of_named_origins_may_ask():
    async def run():
        spec = GatewaySpec(cors=["https://chat.example.org"])
        async with running(Script(), spec=spec, key_digest=key_digest("k")) as one:
            for origin, allowed in (("https://chat.example.org", True), ("https://evil.example.org", False)):
                asks = (
                    ("origin", origin),
                    ("access-control-request-method", "POST"),
                    ("access-control-request-headers", "authorization"),
                )
                status, headers, _ = await plain(one.port, "OPTIONS", CHAT, *asks)
                assert (status == 204) is allowed and ("access-control-allow-origin" in headers) is allowed
                status, headers, _ = await one.ask("/v1/models", origin=origin, authorization="Bearer k")
                # the browser keeps what it is not allowed to show; nothing is let in without a key
                assert status == 200 and ("access-control-allow-origin" in headers) is allowed and headers["vary"] == "origin"
                assert (await one.ask("/v1/models", origin=origin))[0] == 401
        async with running(Script()) as one:
            assert "access-control-allow-origin" not in (await one.ask("/v1/models", origin="https://chat.example.org"))[1]

    asyncio.run(run())


def test_a_line_for_each_request_that_was_let_in(tmp_path):
    async def run():
        guards = (Concurrency(most=8),)
        async with running(Script(), audit=Audit(), audit_folder=str(tmp_path), guards=guards, key_digest=key_digest("k")) as one:
            await asyncio.gather(*(one.ask(COMPLETIONS, X, authorization="Bearer k") for _ in range(5)))
            await one.ask(COMPLETIONS, X, authorization="Bearer wrong")
            await until(lambda: sum(len(file.read_text().splitlines()) for file in tmp_path.glob("*.jsonl")) == 5)
        lines = [json.loads(line) for file in tmp_path.glob("*.jsonl") for line in file.read_text().splitlines()]
        assert {(line["key"], line["model"], line["status"], line["completion_tokens"]) for line in lines} == {
            ("owner", "chat", 200, 2)
        }
        assert "Bearer" not in str(lines) and '"k"' not in str(lines)

    asyncio.run(run())


def test_requests_wait_for_room_and_are_shed_beyond_that():
    async def run():
        models = (ModelFacts("chat", "model", most_ongoing=2),)
        spec = GatewaySpec(most_held=3, hold_s=5)
        async with running(Script(token_s=0.01), models=models, spec=spec) as one:
            asked = [asyncio.create_task(one.ask(COMPLETIONS, {**X, "max_tokens": 8})) for _ in range(8)]
            answers = await asyncio.gather(*asked)
            assert sorted(each[0] for each in answers) == [200] * 5 + [429] * 3
            assert one.replicas[0].most_running == 2
            refused = next(each for each in answers if each[0] == 429)
            assert error(refused[2])["code"] == "overloaded" and int(refused[1]["retry-after"]) > 0
            assert one.gateway._dispatch.held() == {} and one.gateway._dispatch.under_way("r0") == 0

    asyncio.run(run())


def test_one_key_that_sends_much_does_not_keep_others_waiting(tmp_path):
    async def run():
        from raylm.core.storage import Folder
        from raylm.serve.keys import KeyFile, add

        file = KeyFile.of(Folder(tmp_path / "job" / "api"))
        keys = [add(file, name) for name in ("alice", "bob")]
        models, ended = (ModelFacts("chat", "model", most_ongoing=1),), []
        async with running(Script(token_s=0.005), models=models, key_digest=key_digest("k"), keys_uri=file.uri) as one:

            async def ask(name, key):
                assert (await one.ask(COMPLETIONS, X, authorization=f"Bearer {key}"))[0] == 200
                ended.append(name)

            alice = [asyncio.create_task(ask("alice", keys[0])) for _ in range(10)]
            await until(lambda: sum(one.gateway._dispatch.held().values()) == 9)
            await ask("bob", keys[1])
            await asyncio.gather(*alice)
            # the one under way and at most one more came before
            assert ended.index("bob") <= 3

    asyncio.run(run())


def test_a_client_that_leaves_with_the_last_event_had_all_of_its_answer():
    async def run():
        async with running(Script(token_s=0.005)) as one:
            asked = {"model": "chat", "prompt": "x", "max_tokens": 3, "stream": True}
            for _ in range(5):
                answer = await one.session.post(one.url + COMPLETIONS, json=asked)
                seen = b""
                while b"data: [DONE]" not in seen:
                    seen += (piece := await answer.content.readany())
                    assert piece, seen
                answer.close()
            await until(lambda: one.gateway._under_way == 0)
            page = (await one.ask("/metrics"))[2].decode()
            assert 'path="/v1/completions",status="200"} 5' in page and "499" not in page

    asyncio.run(run())


def test_the_end_answers_what_is_under_way_and_takes_nothing_more():
    async def run():
        async with running(Script(token_s=0.01)) as one:
            asked = asyncio.create_task(one.ask(COMPLETIONS, {**X, "max_tokens": 20}))
            await until(lambda: one.replicas[0].running == 1)
            # a connection that stood before
            held = await one.session.get(one.url + "/health")
            await held.read()
            ending = asyncio.create_task(one.gateway.drain(5.0))
            await asyncio.sleep(0.02)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", one.port)
            assert (await asked)[0] == 200 and await ending == 0

    asyncio.run(run())


def test_the_end_writes_down_what_the_last_request_cost(tmp_path):
    async def run():
        counted = str(tmp_path / "counted.json")
        options = {"audit": Audit(), "audit_folder": str(tmp_path / "audit"), "counted_uri": counted}
        async with running(Script(), guards=(TokenBudget(tokens=10_000),), **options) as one:
            for _ in range(3):
                assert (await one.ask(COMPLETIONS, X))[0] == 200
            await one.gateway.drain(1.0)
        lines = [line for file in (tmp_path / "audit").glob("*.jsonl") for line in file.read_text().splitlines()]
        # a prompt of one token and two of the answer, three times
        assert len(lines) == 3 and json.loads((tmp_path / "counted.json").read_text())[0]["state"]["used"] == {"": 9}

    asyncio.run(run())


def test_names_that_clients_make_up_cost_no_memory():
    async def run():
        guards = (Concurrency(most=8),)
        async with running(Script(), guards=guards) as one:
            for number in range(20):
                assert (await one.ask(f"/v1/models/none-{number}"))[0] == 404
            await until(lambda: sum(one.gateway._counters._requests.values()) == 20)
            assert len(one.gateway._counters._requests) == 1 and b"none-7" not in (await one.ask("/metrics"))[2]

    asyncio.run(run())


def test_a_key_for_one_model_is_told_no_others(tmp_path):
    async def run():
        from raylm.core.storage import Folder
        from raylm.serve.keys import KeyFile, add

        file = KeyFile.of(Folder(tmp_path / "job" / "api"))
        key = "Bearer " + add(file, "alice", ["chat"])
        models = (ModelFacts("chat", "model"), ModelFacts("unannounced", "model1"))
        async with running(Script(), models=models, key_digest=key_digest("k"), keys_uri=file.uri) as one:
            for name in ("unannounced", "none"):
                status, _, body = await one.ask(f"/v1/models/{name}", authorization=key)
                assert status == 404 and "`chat`" in error(body)["message"]
                assert body.replace(b"The model `unannounced`", b"").count(b"unannounced") == 0
            assert b"unannounced" in (await one.ask("/v1/models/none", authorization="Bearer k"))[2]
            # the page of all models is for who may ask all of them
            status, _, body = await one.ask("/metrics", authorization=key)
            assert status == 403 and b"unannounced" not in body
            assert (await one.ask("/metrics", authorization="Bearer k"))[0] == 200

    asyncio.run(run())


def test_a_place_at_control_is_given_back_where_its_answer_came_too_late():
    async def run():
        guard = Concurrency(most=1)
        async with running(Script(), guards=(guard,), guards_at_control=True, control_guards=(guard,)) as one:

            async def slow(visit):
                await one.control.admit(visit)
                raise ConnectionError("TimeoutError")

            quick, one.steering.admit = one.steering.admit, slow
            assert (await one.ask(COMPLETIONS, X))[0] == 503
            one.steering.admit = quick
            assert (await one.ask(COMPLETIONS, X))[0] == 200

    asyncio.run(run())


def test_what_fails_here_is_no_client_that_left(monkeypatch, caplog):
    async def run():
        async with running(Script()) as one:

            async def fails(*_):
                raise ZeroDivisionError

            monkeypatch.setattr(one.gateway._forward, "run", fails)
            assert (await one.ask(COMPLETIONS, X))[0] == 500
            await until(lambda: one.gateway._counters._requests)
            assert {status for _, _, status in one.gateway._counters._requests} == {500}

    asyncio.run(run())


def test_what_control_did_not_hear_is_told_again_and_counted_once(tmp_path):
    async def run():
        guard = TokenBudget(tokens=10_000)
        options = {"guards_at_control": True, "control_guards": (guard,)}
        async with running(Script(), guards=(guard,), **options) as one:
            told = []

            async def finish(visit, tokens):
                told.append(tokens)
                # not heard, heard without an answer, and heard
                if len(told) > 1:
                    await one.control.finish(visit, tokens)
                if len(told) < 3:
                    raise ConnectionError("Control starts again")

            one.steering.finish = finish
            assert (await one.ask(COMPLETIONS, X))[0] == 200
            await until(lambda: len(told) == 3)
            counting: Any = one.control._guards
            assert told == [3, 3, 3] and counting._guards[0].state()["used"] == {"": 3}

    asyncio.run(run())
