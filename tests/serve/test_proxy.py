"""What Serve's proxy says when no door answers, and that its own pages are closed."""

from __future__ import annotations

import asyncio
import json

from raylm.serve.proxy import MOST_BYTES, Outer, middlewares


def call(app, path="/v1/models", parts=(b"{}",)):
    sent, left = [], list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(Outer(app)(scope, receive, send))
    return sent


def answering(status, headers=(), body=b"text", more=False):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body, "more_body": more})

    return app


async def nothing(scope, receive, send):
    """As Serve when a replica dies with a request."""


def test_a_request_without_an_answer_is_a_503_to_retry():
    for app in (nothing, answering(500), answering(503), answering(404)):
        start, body = call(app)
        assert start["status"] == 503
        assert b"retry-after" in dict(start["headers"])
        assert set(json.loads(body["body"])["error"]) == {"message", "type", "param", "code"}


def test_what_a_door_signed_passes():
    signed = [(b"x-raylm-served", b"f00d")]
    assert call(answering(404, signed))[0]["status"] == 404
    assert [message.get("body") for message in call(answering(200))[1:]] == [b"text"]


def test_a_stream_that_breaks_off_says_so():
    sent = call(answering(200, [(b"content-type", b"text/event-stream")], b"data: 1\n\n", more=True))
    assert sent[-1]["body"].startswith(b'data: {"error"')
    assert not sent[-1].get("more_body")


def test_serves_own_routes_go_to_the_door():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        await answering(200)(scope, receive, send)

    for path in ("/-/routes", "/-/healthz", "/v1/models"):
        call(app, path)
    assert seen == ["/-/routes/", "/-/healthz", "/v1/models"]


def test_a_body_beyond_all_doors_is_not_kept():
    async def app(scope, receive, send):
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"]

    start, _ = call(app, parts=[bytes(MOST_BYTES // 4)] * 6)
    assert start["status"] == 413


def test_serve_gets_what_it_asks_for():
    assert middlewares()[0].cls is Outer
