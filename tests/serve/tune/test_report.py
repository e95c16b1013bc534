"""What is called better: only what gives the same answers, and is faster than passes differ by."""

from __future__ import annotations

import json
import tomllib

from raylm.inference.config import EngineSettings
from raylm.serve.tune.candidates import candidates
from raylm.serve.tune.report import best_of, row_of, toml_of, write_report

BY_NAME = {one.name: one for one in candidates(0, draft="./draft")}


def result(speeds, answers=((1, 2), (3, 4)), drafted=0, accepted=0):
    return {
        "tokens_per_s": list(speeds),
        "median": sorted(speeds)[len(speeds) // 2],
        "ttft_p50_s": 0.1,
        "ttft_p95_s": 0.2,
        "start_s": 3.0,
        "memory_gb": 1.0,
        "drafted": drafted,
        "accepted": accepted,
        "repeats_differ": 0,
        "answers": [list(answer) for answer in answers],
    }


PLAIN = result([100.0, 101.0, 99.0])
ROWS = [
    row_of(BY_NAME["plain"], PLAIN, PLAIN),
    row_of(BY_NAME["ngram-3"], result([130.0, 131.0, 129.0], drafted=10, accepted=4), PLAIN),
    row_of(BY_NAME["kv-fp8"], result([200.0, 201.0, 199.0], answers=((1, 2), (9, 9))), PLAIN),
    row_of(BY_NAME["seqs-64"], result([102.0, 140.0, 90.0]), PLAIN),
    row_of(BY_NAME["draft-2"], {"failed": "ConfigError: its vocabulary has 8 tokens"}, PLAIN),
]


def test_other_answers_are_never_just_faster(tmp_path):
    assert [row.helped for row in ROWS] == [False, True, False, False, False]
    assert best_of(ROWS).candidate.name == "ngram-3" and ROWS[1].accepted == 0.4
    assert ROWS[2].verdict == "2.00 times as fast, but 1 of 2 answers have other greedy tokens"
    assert ROWS[3].verdict == "1.02 times as fast, the same answers; within what passes differ by"
    page = write_report(tmp_path, "./m", ROWS, {"prompts": 2}).read_text()
    words = (tmp_path / "report.md").read_text()
    for text in (page, words):
        assert "ngram-3 is the best here: 1.30 times as fast, the same answers" in text
        assert "kv-fp8 is 2.00 times as fast, but 1 of 2 answers have other greedy tokens: it is not chosen" in text
        assert "its vocabulary has 8 tokens" in text
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["best"] == "ngram-3" and [one["greedy_equal"] for one in told["candidates"]][:3] == ["2/2", "2/2", "1/2"]
    # what is pasted is what was measured
    pasted = tomllib.loads((tmp_path / "best.toml").read_text())["engine"]
    assert EngineSettings(**pasted) == BY_NAME["ngram-3"].settings


def test_where_nothing_helps_nothing_is_set():
    assert toml_of(best_of([ROWS[0], ROWS[2], ROWS[3], ROWS[4]])) == "engine = {}"
