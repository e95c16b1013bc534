"""A fake clock and requests that end: when a key that has used its tokens is let in again."""

from __future__ import annotations

from raylm.serve.guards.guard import Visit
from raylm.serve.guards.token_rate import TokenRate

ONE = Visit("a", "POST", "/v1/completions", 10, "alice", "1")


def test_tokens_count_when_a_request_ends_and_for_a_minute():
    guard = TokenRate(per_minute=100)
    assert guard.admit(ONE, 0.0) is None
    guard.finish(ONE, 60, 10.0)
    assert guard.headers(ONE, 10.0) == {"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "40"}
    assert guard.admit(ONE, 20.0) is None
    guard.finish(ONE, 90, 30.0)
    refusal = guard.admit(ONE, 31.0)
    # 150 are used: without the 60 of second 10 it is 90
    assert refusal is not None and (refusal.status, refusal.retry_after_s) == (429, 39)
    assert guard.headers(ONE, 31.0)["x-ratelimit-remaining-tokens"] == "0"
    assert guard.admit(ONE._replace(client="b"), 31.0) is None
    assert guard.admit(ONE, 70.0) is None


def test_one_request_beyond_the_whole_limit_closes_the_key_until_it_leaves_the_window():
    guard = TokenRate(per_minute=10)
    guard.finish(ONE, 5, 0.0)
    guard.finish(ONE, 500, 1.0)
    refusal = guard.admit(ONE, 2.0)
    assert refusal is not None and refusal.retry_after_s == 59
    assert guard.admit(ONE, 61.5) is None
