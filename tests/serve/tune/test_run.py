"""Candidates in turn: what is known is not measured again, what fails is a row, what helped is tried together."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from raylm.cli import main
from raylm.core.errors import ConfigError, StageError
from raylm.serve.tune import run
from raylm.serve.tune.candidates import Candidate, candidates
from raylm.serve.tune.run import Tuning, measure, try_all
from tests.model.tiny import tiny_checkpoint
from tests.serve.tune.test_report import result


@pytest.fixture
def tuning(tmp_path):
    return Tuning("./m", [[1, 2]], [2], "float32", 64, 0, 8, 2, 2, tmp_path / "candidates")


SPEEDS = {"plain": 100.0, "ngram-3": 120.0, "ngram-6": 110.0, "no-prefix-cache": 105.0, "kv-fp8": 90.0, "seqs-64": 100.0}


def test_the_order_and_what_is_tried_together(tuning):
    asked = []

    def by(tuning, candidate, seconds):
        asked.append(candidate.name)
        return {"failed": "no kernel"} if candidate.name == "kv-fp8" else result([SPEEDS.get(candidate.name, 130.0)] * 3)

    rows = try_all(tuning, candidates(0), 1000, False, by)
    assert asked == ["plain", "ngram-3", "ngram-6", "no-prefix-cache", "kv-fp8", "seqs-64", "combined"]
    assert rows[-1].candidate.table["speculation"]["num_tokens"] == 3 and rows[-1].helped and rows[4].failed == "no kernel"
    late = try_all(tuning, candidates(0), 0, False, by)
    assert [bool(row.failed) for row in late] == [False, *[True] * 5] and "not tried: the time was up" in late[1].failed
    with pytest.raises(StageError, match="could not be measured: no kernel"):
        try_all(tuning, candidates(0), 1000, False, lambda *_: {"failed": "no kernel"})


def test_results_on_file_are_taken_for_the_same_question_only(tuning):
    from raylm.core.config import digest_of

    tuning.found.mkdir()
    for candidate in candidates(0):
        known = {"of": digest_of(tuning.asked(candidate)), **result([SPEEDS[candidate.name]] * 3)}
        if candidate.name == "kv-fp8":
            known |= {"failed": "not done after 30 s", "late": True}
        (tuning.found / f"{candidate.name}.json").write_text(json.dumps(known))
    asked = []

    def by(tuning, candidate, seconds):
        asked.append(candidate.name)
        return result([SPEEDS.get(candidate.name, 130.0)] * 3)

    try_all(tuning, candidates(0), 1000, False, by)
    assert asked == ["kv-fp8", "combined"], "one that ran out of time is tried again"
    asked.clear()
    try_all(tuning._replace(tokens=9), candidates(0), 1000, False, by)
    assert len(asked) == 7


def test_a_process_that_ends_or_stands_still_is_a_row(tuning, monkeypatch, tmp_path):
    plain = candidates(0)[0]
    (tmp_path / "python").write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    os.chmod(tmp_path / "python", 0o755)
    monkeypatch.setattr(run.sys, "executable", str(tmp_path / "python"))
    assert measure(tuning, plain, 20.0) == {"failed": "its process ended: out of memory"}
    (tmp_path / "python").write_text("#!/bin/sh\nsleep 60\n")
    found = measure(tuning, plain, 0.3)
    assert found["failed"].startswith("not done after") and found["late"]


def test_a_model_that_is_not_there_is_said(tmp_path, capsys):
    (tmp_path / "asked").write_text("Hi\n")
    assert main(["tune-serve", str(tmp_path / "none"), "--prompts", str(tmp_path / "asked")]) == 1
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="write NAME=FOLDER"):
        run._named("int8")


@pytest.mark.vllm
@pytest.mark.long
def test_with_engines(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", vocab=300)
    other = tiny_checkpoint(tmp_path / "draft", vocab=400, layers=1)
    (tmp_path / "asked").write_text("\n".join(f"one two three one two three {number}" for number in range(4)))
    words = ["tune-serve", str(model), "--prompts", str(tmp_path / "asked"), "--draft", str(other), "--tokens", "24"]
    assert main([*words, "--repeats", "2", "--minutes", "8", "--out", str(tmp_path / "out")]) == 0
    told = {one["name"]: one for one in json.loads((tmp_path / "out" / "report.json").read_text())["candidates"]}
    assert told["plain"]["median"] > 0 and told["ngram-3"]["drafted"] > told["ngram-3"]["accepted"] > 0
    assert told["ngram-3"]["greedy_equal"] == told["no-prefix-cache"]["greedy_equal"] == "4/4"
    assert "the draft model cannot propose tokens for this model" in told["draft-2"]["verdict"]


def test_what_a_candidate_leaves_behind_ends_with_it(tuning, tmp_path, monkeypatch):
    # an engine in a process of its own outlives one that ended without a word to it
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/engine\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    assert "without a word" in measure(tuning, Candidate("plain", {}), 20)["failed"]
    engine = int((tmp_path / "engine").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{engine}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("it still runs")
