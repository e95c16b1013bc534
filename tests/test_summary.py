"""The figures of a stage: few, in their order, before beside after."""

from __future__ import annotations

from typing import get_args

import pytest

from raylm import summary
from raylm.job import AnyStage
from raylm.summary import Figure, figures

METRICS = {
    "held_out_loss_before": 7.6451, "held_out_loss_after": 4.0962, "loss_first": 7.65, "loss_last": 3.75, "tokens_per_s": 4732.1,
    "restarts": 0, "skipped_steps": 2, "start_s": 435.0, "rows_in": 13411, "rows": 12008, "bytes": 11_240_331, "passed": False,
}  # fmt: skip


def test_what_was_measured_twice_is_one_row():
    assert figures(("held_out_loss", "loss", "rows", "tokens_per_s", "nothing"), METRICS) == [
        Figure("held-out loss", "7.645", "4.096"),
        Figure("loss", "7.65", "3.75"),
        Figure("rows", "13,411", "12,008"),
        Figure("tokens/s", "", "4,732"),
    ]


def test_units_and_counts_of_nothing():
    assert figures(("restarts", "skipped_steps", "start_s", "bytes", "passed"), METRICS, {"passed": True}) == [
        Figure("skipped steps", "", "2"),
        Figure("start", "", "7 min 15 s"),
        Figure("bytes", "", "11.2 MB"),
        Figure("passed", "", "no"),
    ]
    many = {f"m{at}": at + 1 for at in range(20)}
    assert len(figures(tuple(many), many)) == summary.MOST
    assert summary.duration(7505) == "2 h 05 min" and summary.duration(3.14159) == "3.1 s"


def test_a_table_is_plain_text_without_a_terminal():
    shown = summary.table(figures(("held_out_loss", "tokens_per_s"), METRICS), terminal=False)
    assert [line.split() for line in shown.splitlines()] == [["held-out", "loss", "7.645", "->", "4.096"], ["tokens/s", "4,732"]]
    assert "\x1b" not in shown and "\x1b" in summary.table(figures(("loss",), METRICS), terminal=True)
    assert summary.table([], terminal=True) == ""


@pytest.mark.parametrize("kind", get_args(get_args(AnyStage)[0]))
def test_every_verb_names_its_figures(kind):
    assert 0 < len(kind.figures) <= 12
