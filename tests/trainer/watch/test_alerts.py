"""Rows with planted trouble: each is reported once, in words, and sent to a URL."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raylm.trainer.watch.alerts import Alarm, Alerts
from tests.trainer.watch.rows import falling


def raised(rows, **limits):
    alarm = Alarm(Alerts(**limits), "job/base")
    for row in rows:
        alarm.look(row["step"], row)
    return [(alert.step, alert.kind) for alert in alarm.raised]


def test_a_quiet_run_raises_nothing():
    assert raised(falling(200)) == []


def test_a_spike_is_raised_at_its_step():
    rows = falling(80)
    rows[70]["loss"] = 30.0
    assert raised(rows) == [(70, "spike")]


def test_divergence_is_raised_once_while_it_lasts():
    rows = falling(300)
    for row in rows[120:]:
        row["loss"] = 1.6 + 0.05 * (row["step"] - 120)
    assert [kind for _, kind in raised(rows, spike=1e9)] == ["divergence"]


def test_a_policy_is_watched_by_its_reward_and_by_what_generator_and_trainer_agree_on():
    rows = [{"step": at, "loss": 0.1 * (-1) ** at, "reward": min(at, 100) / 100, "mismatch_kl": 1e-6} for at in range(200)]
    assert raised(rows) == [], "its loss may go from one side of 0 to the other"
    for row in rows[120:]:
        row["reward"] = 0.2
    rows[7]["mismatch_kl"] = 0.4
    assert [kind for _, kind in raised(rows)] == ["mismatch", "collapse"]


def iteration(at: int, **changes: float) -> dict[str, float]:
    usual = {"reward": 0.5, "completion_tokens": 20.0 + at % 3, "cut_share": 0.1, "entropy": 2.0, "kl": 0.02, "mismatch_kl": 1e-6}
    return {"step": at, **usual, "nll": 1.9, **changes}


@pytest.mark.parametrize(
    ("kind", "from_on", "changes"),
    [
        ("length", 30, {"completion_tokens": 90.0}),
        ("cut", 30, {"cut_share": 0.9}),
        ("entropy", 30, {"entropy": 0.05}),
        ("kl", 30, {"kl": 4.0}),
        ("kl", 30, {"kl": float("nan")}),
        ("mismatch", 30, {"mismatch_kl": float("nan")}),
        ("collapse", 30, {"reward": 0.1}),
    ],
)
def test_a_policy_that_goes_wrong_is_reported_once_in_its_own_word(kind, from_on, changes):
    rows = [iteration(at, **(changes if at >= from_on else {})) for at in range(80)]
    ((step, found),) = raised(rows)
    assert found == kind and from_on <= step <= from_on + 20


def test_where_no_entropy_is_computed_the_drawn_tokens_log_probabilities_tell_it():
    rows = [iteration(at, nll=1.9 if at < 30 else 0.05) for at in range(80)]
    assert raised(rows) == []
    for row in rows:
        del row["entropy"]
    ((step, kind),) = raised(rows)
    assert kind == "entropy" and 30 <= step <= 40


def test_a_policy_that_was_always_so_is_not_reported():
    assert raised([iteration(at, cut_share=0.9, entropy=0.01, completion_tokens=400.0) for at in range(80)]) == []
    gaps = [iteration(at) for at in range(80)]
    for row in gaps[20::2]:
        # an iteration that teaches nothing has no figure of the algorithm
        del row["entropy"], row["kl"]
    assert raised(gaps) == []
    assert raised([{"step": at, "loss": 1.0, "kl": 9.0} for at in range(20)]) == [], "KTO has a `kl` of its own"


def test_stragglers_waits_and_steps_not_taken():
    rows = falling(5)
    rows[1] |= {"straggler": 2.0, "slowest_rank": 3}
    rows[2] |= {"data_wait_s": 0.6}
    rows[3] |= {"finite": False, "grad_norm": float("nan")}
    assert raised(rows, straggler_steps=1) == [(1, "straggler"), (2, "data wait"), (3, "not finite")]


def test_stragglers_are_reported_when_they_persist_and_counted_when_they_do_not():
    rows = falling(60)
    for row in rows[10:50]:
        row |= {"straggler": 1.6 + 0.01 * row["step"], "slowest_rank": row["step"] % 2 if row["step"] < 30 else 1}
    alarm = Alarm(Alerts(), "job/base")
    for row in rows:
        alarm.look(row["step"], row)
    # rank 1 alone from step 29 on
    (alert,) = alarm.raised
    assert alert.step == 48 and "rank 1" in alert.said and "for 20 steps" in alert.said
    (end,) = alarm.end()
    assert end.said.startswith("40 of 60 steps waited for a slow rank (rank 1 in 30, rank 0 in 10; at most 2.1 times")
    assert Alarm(Alerts(), "quiet").end() == []


def test_alerts_go_to_a_url_and_one_that_is_gone_does_no_harm():
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *said):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rows = falling(2)
    rows[1]["data_wait_s"] = 0.9
    raised(rows, webhook=f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    assert [(one["step"], one["kind"], one["run"]) for one in got] == [(1, "data wait", "job/base")]
    for gone in ("http://127.0.0.1:9/", "no-scheme/hook"):
        assert raised(rows, webhook=gone) == [(1, "data wait"), (1, "webhook")]
