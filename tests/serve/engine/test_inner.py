"""Plain ASGI calls through a replica's door: who knows no secret, clients that leave, and what is heard of failures behind it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from raylm.inference.weight_swap import Hold
from raylm.serve.engine.inner import INNER, SERVED, InnerDoor
from raylm.serve.envelope import bad_request

SECRET = "s3cret"
POST: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/chat/completions"}
KNOWN = (INNER.encode(), SECRET.encode())


def door(app, **options):
    return InnerDoor(app, SECRET, {SERVED: "f00d"}, options.pop("body_bytes", 4000), **options)


def call(app, body=b"{}", headers=(KNOWN,), chunk=1 << 20, path=POST["path"], **options):
    """Status, headers and body of the answer."""
    sent, left = [], [body[at : at + chunk] for at in range(0, max(len(body), 1), chunk)]

    async def receive():
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    asyncio.run(door(app, **options)({**POST, "path": path, "headers": list(headers)}, receive, send))
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), text


def error(answer):
    inner = json.loads(answer[2])["error"]
    assert set(inner) == {"message", "type", "param", "code"}
    return inner


def answering(status, body, kind=b"application/json"):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for part in body if isinstance(body, list) else [body]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def broken(scope, receive, send):
    raise MemoryError("/home/me/model.py line 5")


@pytest.mark.parametrize("headers", [(), ((INNER.encode(), b"guess"),), (KNOWN, KNOWN), ((b"x-raylm-served", b"s3cret"),)])
@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/chat/completions"])
def test_who_knows_no_secret_learns_nothing(headers, path):
    status, said, text = call(answering(200, b"{}"), headers=headers, path=path)
    assert (status, text, said) == (404, b"", {b"content-length": b"0"})


def test_the_secret_goes_no_further():
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["headers"]))
        await answering(200, b"ok")(scope, receive, send)

    assert call(app, headers=(KNOWN, (b"x-request-id", b"7")))[0] == 200
    assert seen == [{b"x-request-id": b"7"}]


def test_the_body_arrives_whole():
    got = []

    async def app(scope, receive, send):
        got.append(await receive())
        await answering(200, b"ok")(scope, lambda: asyncio.sleep(0), send)

    assert call(app, b"x" * 1000, chunk=7)[0] == 200
    assert got == [{"type": "http.request", "body": b"x" * 1000, "more_body": False}]


def test_a_large_body_is_refused_before_the_app():
    answer = call(broken, b"x" * 2000, chunk=500, body_bytes=1500)
    assert answer[0] == 413
    assert "1500 bytes" in error(answer)["message"]


def test_what_the_check_refuses_never_reaches_the_app():
    async def check(path, body):
        raise bad_request(f"{path} {body.decode()}", "n")

    answer = call(broken, b"{}", check=check)
    assert answer[0] == 400
    told = {"message": "/v1/chat/completions {}", "type": "invalid_request_error", "param": "n", "code": "bad_request"}
    assert error(answer) == told


def test_failures_behind_the_door_are_told_without_names_and_paths():
    answer = call(broken)
    assert answer[0] == 500
    assert error(answer)["type"] == "server_error"
    assert b"MemoryError" not in answer[2]
    assert b"/home" not in answer[2]
    body = b'{"error": {"message": "\'State\' object has no attribute", "type": "InternalServerError", "code": 500}}'
    assert b"State" not in call(answering(500, [body[:9], body[9:]]))[2]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (405, b'{"detail":"Method Not Allowed"}', "Method Not Allowed"),
        (
            404,
            b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}',
            "The model `x` does not exist.",
        ),
        (400, b"plain text", "plain text"),
        (400, b"", "Refused."),
    ],
)
def test_foreign_errors_get_the_one_shape(status, body, message):
    answer = call(answering(status, body))
    assert (answer[0], error(answer)["message"]) == (status, message)
    assert answer[1][b"x-raylm-served"] == b"f00d"


def test_a_dead_engine_is_a_503_to_retry():
    for answer in (call(broken, is_dead=lambda: True), call(answering(200, b"ok"), is_dead=lambda: True)):
        assert answer[0] == 503
        assert int(answer[1][b"retry-after"]) > 0
        assert error(answer)["code"] == "engine_restarting"
    # it died while the request was under way
    dead = iter([False, True, True, True])
    assert call(answering(500, b"{}"), is_dead=lambda: next(dead))[0] == 503


def test_an_error_within_a_stream_has_the_shape_too():
    told = b'data: {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}\n\n'
    parts = [b'data: {"id": 1}\n\n', told, b"data: [DONE]\n\n"]
    status, _, text = call(answering(200, parts, b"text/event-stream; charset=utf-8"))
    events = text.split(b"\n\n")
    assert status == 200
    assert events[0] == b'data: {"id": 1}'
    assert events[2] == b"data: [DONE]"
    assert set(json.loads(events[1].removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}
    assert b"EngineCore" not in text


def test_a_stream_that_breaks_ends_with_a_clear_event():
    async def app(scope, receive, send):
        await answering(200, b'data: {"id": 1}\n\n', b"text/event-stream")(scope, receive, send)
        raise MemoryError("no more")

    _, _, text = call(app)
    assert json.loads(text.split(b"data: ")[2])["error"]["code"] == "internal_error"


def leaving(app, by):
    """Run a request whose client leaves after a moment, by a message or by being cancelled."""
    sent, first = [], [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive():
        if first:
            return first.pop()
        await asyncio.sleep(0.05 if by == "message" else 60)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def run():
        here = door(app)
        call = asyncio.create_task(here({**POST, "headers": [KNOWN]}, receive, send))
        await asyncio.sleep(0.02)
        assert here.under_way == 1
        await asyncio.sleep(0.08)
        if by == "cancel":
            call.cancel()
        await asyncio.wait({call}, timeout=5)
        assert call.done()
        assert here.under_way == 0

    asyncio.run(run())
    return sent


@pytest.mark.parametrize("by", ["message", "cancel"])
def test_a_client_that_leaves_is_heard_by_work_in_a_task_of_its_own(by):
    ended = []

    async def app(scope, receive, send):
        # as vLLM does it: the work is no child of the call, and ends only when `receive` says that the client left
        await receive()
        work = asyncio.create_task(asyncio.sleep(60))
        gone = asyncio.create_task(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        ended.append(gone.result())
        work.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert leaving(app, by) == []
    assert ended == [{"type": "http.disconnect"}]


def test_work_that_does_not_listen_is_cancelled():
    cancelled = []

    async def app(scope, receive, send):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    leaving(app, "cancel")
    assert cancelled == [True]


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_says_where_its_weights_changed(streams):
    sent, kind = [], b"text/event-stream" if streams else b"application/json"

    async def app(scope, receive, send) -> None:
        await receive()
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        if streams:
            await send(start)
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        here.mark("beef", {"cmpl-77-0": [(1, 25), (0, 22)], "cmpl-8": [(0, 3)]})
        if not streams:
            await send(start)
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    async def receive():
        if not asked:
            await asyncio.Event().wait()
        return asked.pop()

    async def send(message):
        sent.append(message)

    asked: list[dict[str, Any]] = [{"type": "http.request", "body": b"{}", "more_body": False}]
    here: Any = door(app)
    asyncio.run(here({**POST, "headers": [KNOWN, (b"x-request-id", b"77")]}, receive, send))
    if streams:
        assert [each["body"] for each in sent[1:]] == [b"data: 1\n\n", b": raylm-spans beef 0:22,1:25\n\ndata: 2\n\n"]
    else:
        assert dict(sent[0]["headers"])[b"x-raylm-spans"] == b"beef 0:22,1:25"


def test_what_was_said_by_weights_that_were_refused_does_not_go_out():
    hold = Hold()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        hold.close()
        asyncio.get_running_loop().call_later(0.05, hold.drop)
        await send({"type": "http.response.body", "body": b"data: wrong\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    _, _, text = call(app, hold=hold)
    events = text.split(b"\n\n")
    assert events[0] == b"data: 1" and b"wrong" not in text and b"DONE" not in text
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "engine_restarting"
