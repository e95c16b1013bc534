"""Budgets by day and by month, under a clock of our own, and after the death of the process that counts."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from raylm.core.storage import Folder
from raylm.serve.config import Serve
from raylm.serve.guards import guard as guards_of
from raylm.serve.guards import token_budget
from raylm.serve.guards.guard import Guards, Visit
from raylm.serve.guards.token_budget import TokenBudget

ONE = Visit("a", "POST", "/v1/completions", 10, "alice", "1")


@pytest.fixture
def clock(monkeypatch):
    times = [datetime(2026, 12, 31, 23, 59, tzinfo=UTC)]
    monkeypatch.setattr(token_budget, "_now", lambda: times[-1])
    return times


def test_a_key_begins_anew_with_its_period(clock):
    guard = TokenBudget(tokens=100, period="month")
    guard.finish(ONE, 60, 0.0)
    assert guard.admit(ONE, 0.0) is None and guard.headers(ONE, 0.0)["x-ratelimit-remaining-budget-tokens"] == "40"
    guard.finish(ONE, 60, 0.0)
    refusal = guard.admit(ONE, 0.0)
    assert refusal is not None and (refusal.status, refusal.code, refusal.retry_after_s) == (429, "insufficient_quota", 61)
    assert guard.admit(ONE._replace(client="b"), 0.0) is None
    clock.append(datetime(2027, 1, 1, tzinfo=UTC))
    assert guard.admit(ONE, 0.0) is None
    ever = TokenBudget(tokens=1, period="ever")
    ever.finish(ONE, 1, 0.0)
    clock.append(datetime(2029, 1, 1, tzinfo=UTC))
    refusal = ever.admit(ONE, 0.0)
    assert refusal is not None and refusal.retry_after_s is None


def test_what_was_used_outlives_the_process(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(guards_of, "SAVE_S", 0.0)
    at = str(tmp_path / ".keys" / "api.counted.json")

    def made(tokens: int, period: str = "month") -> Guards:
        table: Any = [{"kind": "concurrency", "most": 2}, {"kind": "token_budget", "tokens": tokens, "period": period}]
        return Guards(list(Serve(model="m", guards=table).guards), at)

    first = made(100)
    assert asyncio.run(first.admit(ONE)).refusal is None
    asyncio.run(first.finish(ONE, 150))
    assert asyncio.run(made(100).admit(ONE)).refusal is not None
    # a larger budget is not begun anew, another period is
    assert dict(asyncio.run(made(200).admit(ONE)).headers)[b"x-ratelimit-remaining-budget-tokens"] == b"50"
    assert asyncio.run(made(100, "day").admit(ONE)).refusal is None


def test_a_state_is_never_written_over_a_newer_one(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(guards_of, "SAVE_S", 0.0)
    one = Guards([TokenBudget(tokens=1000)], str(tmp_path / "counted.json"))
    written, slow = Folder.write, [0.05]

    def write(folder, name, text):
        # the first write is the slowest
        if slow:
            time.sleep(slow.pop())
        return written(folder, name, text)

    monkeypatch.setattr(Folder, "write", write)

    async def run():
        saves = []
        for _ in range(3):
            one.count(ONE, 100)
            saves.append(asyncio.create_task(one.save()))
            await asyncio.sleep(0.01)
        await asyncio.gather(*saves)

    asyncio.run(run())
    assert Folder(tmp_path).read_json("counted.json")[0]["state"]["used"] == {ONE.client: 300}


def test_what_is_left_is_of_this_period(clock):
    guard = TokenBudget(tokens=100, period="month")
    guard.finish(ONE, 60, 0.0)
    clock.append(datetime(2027, 1, 1, tzinfo=UTC))
    assert guard.headers(ONE, 0.0)["x-ratelimit-remaining-budget-tokens"] == "100"
