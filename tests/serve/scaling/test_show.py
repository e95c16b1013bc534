"""The command: decisions of an endpoint, and its requests under other policies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from raylm.cli import main
from raylm.serve.scaling import log
from raylm.serve.scaling.replay.trace import Arrival, write_trace


def endpoint(tmp_path, requests: int):
    """A job's folder with an audit log and a decision log, as they lie beside an endpoint."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for number in range(requests):
        ended = begin + timedelta(seconds=number + 1.0 + 0.01 * (number % 7))
        row = {
            "time": ended.isoformat(),
            "path": "/v1/completions",
            "model": "chat",
            "status": 200,
            "prompt_tokens": 100 + number,
        }
        rows.append({**row, "completion_tokens": 20, "first_s": 0.05 + (100 + number) / 4000, "seconds": 0.5})
    audit = tmp_path / "job" / ".audit" / "endpoint"
    audit.mkdir(parents=True)
    (audit / "2026-01-01-aaaaaa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = log.ScalingLog(str(tmp_path / "job" / ".scaling" / "endpoint"))
    written.write(
        {"model": "chat", "before": 1, "replicas": 2, "running": 1, "kind": "queue", "reason": "so", "cold_start_s": 7.5}, 0
    )
    return str(tmp_path / "job" / "endpoint")


def test_decisions_are_shown(tmp_path, capsys):
    assert main(["scaling", endpoint(tmp_path, 1)]) == 0
    said = capsys.readouterr().out
    assert "chat  1 -> 2   queue        so" in said and "next: raylm scaling" in said


def test_an_endpoint_is_replayed_with_what_its_own_log_tells(tmp_path, capsys):
    plot = tmp_path / "scaling.svg"
    words = ["--simulate", "--set", "policies=[{kind='tokens',target_ttft_s=1},{kind='ongoing',target=2},{kind='ongoing'}]"]
    assert main(["scaling", endpoint(tmp_path, 60), *words, "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "60 requests in 59 s (0 lines skipped); engine: as measured" in said
    assert "cold_start_s = 7.5" in said and "prefill_tokens_s = 4000" in said
    assert "\ntokens " in said and "2 ongoing target=2" in said and "3 ongoing" in said
    assert plot.read_text().startswith("<svg")


def test_a_trace_without_seconds_is_replayed_with_assumptions_that_are_named(tmp_path, capsys):
    write_trace(tmp_path / "t.jsonl", [Arrival(float(n), 50, 5) for n in range(30)])
    words = ["--set", "engine.prefill_tokens_s=777", "--set", "replicas.max=3", "--set", "speed=2"]
    assert main(["scaling", str(tmp_path / "t.jsonl"), "--simulate", *words]) == 0
    said = capsys.readouterr().out
    assert "NOT measured (0 requests tell" in said and "prefill_tokens_s = 777" in said


@pytest.mark.parametrize(("words", "error"), [
    (["--set", "replicas.mx=3"], "mx"), (["--set", "policies=[{kind='tokns'}]"], "tokns"), (["--set", "engine=3"], "engine"),
])  # fmt: skip
def test_mistakes_are_named(tmp_path, capsys, words, error):
    write_trace(tmp_path / "t.jsonl", [Arrival(0.0, 50, 5)])
    assert main(["scaling", str(tmp_path / "t.jsonl"), "--simulate", *words]) == 1
    assert error in capsys.readouterr().err


def test_an_endpoint_without_logs_says_what_to_do(tmp_path, capsys):
    assert main(["scaling", str(tmp_path / "endpoint")]) == 1
    assert main(["scaling", str(tmp_path / "endpoint"), "--simulate"]) == 1
    assert "audit = {}" in capsys.readouterr().err
