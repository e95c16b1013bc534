"""Requests of two keys that begin and end: how many of one are under way, also where the end of one is never told."""

from __future__ import annotations

from raylm.serve.guards.concurrency import Concurrency
from raylm.serve.guards.guard import Visit


def visit(number: str, client: str = "a") -> Visit:
    return Visit(client, "POST", "/v1/chat/completions", 10, client, number)


def test_one_more_than_the_most_waits_for_an_end():
    guard = Concurrency(most=2)
    assert guard.admit(visit("1"), 0.0) is None and guard.admit(visit("2"), 0.0) is None
    refusal = guard.admit(visit("3"), 1.0)
    assert refusal is not None and (refusal.status, refusal.retry_after_s) == (429, 1)
    assert guard.admit(visit("4", client="b"), 1.0) is None
    # what was refused has no end that would make room
    guard.finish(visit("3"), 0, 1.0)
    assert guard.admit(visit("3"), 1.0) is not None
    guard.finish(visit("1"), 5, 2.0)
    assert guard.admit(visit("3"), 2.0) is None


def test_a_request_whose_replica_died_is_not_counted_for_ever():
    guard = Concurrency(most=1, longest_s=60)
    assert guard.admit(visit("1"), 0.0) is None
    assert guard.admit(visit("2"), 59.0) is not None
    assert guard.admit(visit("2"), 61.0) is None
