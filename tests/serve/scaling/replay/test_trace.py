"""What an audit log tells of requests: as the gateway writes it, and as files of others say it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from raylm.core.errors import DataError
from raylm.serve.audit import Audit, AuditLog
from raylm.serve.guards.guard import Visit
from raylm.serve.scaling.replay.trace import Arrival, read_trace, write_trace
from raylm.serve.usage import Done


def line(model: str, end: str, seconds: float, prompt: int, answer: int, status: int = 200, path: str = "/v1/completions") -> str:
    time = datetime.fromisoformat(end).replace(tzinfo=UTC).isoformat()
    row = {"time": time, "path": path, "model": model, "status": status, "prompt_tokens": prompt, "completion_tokens": answer}
    return json.dumps({**row, "first_s": 0.5, "seconds": seconds}) + "\n"


def test_requests_are_in_the_order_in_which_they_came(tmp_path):
    # the longer one came first and ended last
    (tmp_path / "2026-01-01-aaaaaa.jsonl").write_text(line("m", "2026-01-01T00:00:10", 9.0, 5, 90))
    (tmp_path / "2026-01-01-bbbbbb.jsonl").write_text(
        line("m", "2026-01-01T00:00:04", 1.0, 7, 8)
        + line("other", "2026-01-01T00:00:05", 1.0, 7, 8)
        + line("m", "2026-01-01T00:00:06", 1.0, 0, 0, status=429)
        + line("m", "2026-01-01T00:00:06", 1.0, 9, 9, path="/tokenize")
        + line("m", "2026-01-01T00:00:07", 2.0, 6, 3, status=499)
    )
    trace = read_trace(tmp_path, "m")
    assert trace.arrivals == [Arrival(0.0, 5, 90), Arrival(2.0, 7, 8), Arrival(4.0, 6, 3)]
    assert (trace.skipped, trace.span_s, trace.requests[0].first_s) == (3, 4.0, 0.5)
    assert len(read_trace(tmp_path).requests) == 4


def test_what_the_gateway_writes_can_be_replayed(tmp_path):
    visit = Visit("", "POST", "/v1/chat/completions", 10)
    AuditLog(str(tmp_path), Audit()).write(Done(visit, 200, 12, 34, 2.0, 0.5), "chat", b"{}")
    trace = read_trace(tmp_path, "chat")
    assert trace.arrivals == [Arrival(0.0, 12, 34)] and trace.requests[0].seconds == 2.0


def test_a_file_of_ones_own(tmp_path):
    arrivals = [Arrival(0.0, 3, 4), Arrival(1.5, 5, 6)]
    write_trace(tmp_path / "t.jsonl", arrivals)
    assert read_trace(tmp_path / "t.jsonl").arrivals == arrivals


@pytest.mark.parametrize("text", ["no json", '{"at": 1}', '{"at": "x", "prompt_tokens": 1, "completion_tokens": 1}', "[]"])
def test_lines_that_are_none_are_named(tmp_path, text):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"t\.jsonl"):
        read_trace(tmp_path / "t.jsonl")
