"""A fake clock and requests of two keys: what the window admits and what it refuses."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from raylm.serve.config import Serve
from raylm.serve.envelope import Refusal
from raylm.serve.guards.guard import Guard, Guards, Visit
from raylm.serve.guards.request_rate import RequestRate

CHAT = Visit("a", "POST", "/v1/chat/completions", 10)


def test_a_window_of_a_minute_slides():
    guard = RequestRate(per_minute=2)
    assert guard.admit(CHAT, 0.0) is None
    assert guard.admit(CHAT, 30.0) is None
    refusal = guard.admit(CHAT, 59.5)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "rate_limit_exceeded", 1)
    # the one at 0 s has left the window; what was refused was not counted
    assert guard.admit(CHAT, 60.0) is None
    refusal = guard.admit(CHAT, 61.0)
    assert refusal is not None and refusal.retry_after_s == 29


def test_keys_and_routes_are_counted_apart():
    guard = RequestRate(per_minute=1, routes=["/v1/chat/completions"])
    assert guard.admit(CHAT, 0.0) is None
    assert guard.admit(CHAT._replace(client="b"), 0.0) is None
    assert guard.admit(CHAT._replace(path="/v1/models"), 0.0) is None
    assert guard.admit(CHAT, 1.0) is not None


def test_two_endpoints_do_not_count_together():
    first, second = RequestRate(per_minute=1), RequestRate(per_minute=1)
    assert first.admit(CHAT, 0.0) is None
    assert second.admit(CHAT, 0.0) is None


class Closed(Guard):
    kind: str = "closed"

    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        return Refusal(403, f"{visit.path} is closed.", "closed") if visit.path == "/detokenize" else None


def test_guards_are_asked_in_order_and_the_first_refusal_is_the_answer():
    table = [{"kind": "custom", "path": "tests.serve.guards.test_request_rate:Closed"}, {"kind": "request_rate", "per_minute": 1}]
    guards = Guards(Serve(model="m", guards=table).guards)
    closed = asyncio.run(guards.admit(CHAT._replace(path="/detokenize"))).refusal
    assert closed is not None and closed.status == 403
    # the closed route was not counted
    passed = asyncio.run(guards.admit(CHAT))
    assert passed.refusal is None
    assert dict(passed.headers) == {b"x-ratelimit-limit-requests": b"1", b"x-ratelimit-remaining-requests": b"0"}
    limited = asyncio.run(guards.admit(CHAT)).refusal
    assert limited is not None and limited.status == 429


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        RequestRate(per_minute=0)


class Broken(Guard):
    def admit(self, visit: Visit, now_s: float) -> Refusal | None:
        return {"/version": None, "/metrics": "no"}[visit.path]  # type: ignore[return-value]


def test_a_guard_that_fails_admits_nobody_and_is_logged(caplog):
    guards = Guards([Broken()])
    assert asyncio.run(guards.admit(CHAT._replace(path="/version"))).refusal is None
    for path, said in (("/metrics", "returned str"), ("/tokenize", "KeyError")):
        refusal = asyncio.run(guards.admit(CHAT._replace(path=path))).refusal
        assert refusal is not None and refusal.status == 500
        assert "the guard Broken failed" in caplog.text and said in caplog.text


def test_a_route_that_is_none_is_refused():
    RequestRate(per_minute=1, routes=["/v1/models/raylm", "/tokenize"])
    with pytest.raises(ValueError, match=r"no route is called '/v1/chat/completion'. Did you mean '/v1/chat/completions'"):
        RequestRate(per_minute=1, routes=["/v1/chat/completion"])
