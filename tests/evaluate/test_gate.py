"""Measured values and limits: which of them keep a model from being served."""

from __future__ import annotations

import pytest

from raylm.evaluate.config import Evaluate
from raylm.evaluate.gate import failures

BETTER = {"loss": "low", "answers": "high"}


@pytest.mark.parametrize(
    ("measured", "gate", "said"),
    [
        ({"loss": 1.0, "answers": 0.5}, {"loss": 1.0, "answers": 0.5}, []),
        ({"loss": 1.1}, {"loss": 1.0}, ["loss is 1.1, at most 1 is asked"]),
        ({"answers": 0.4}, {"answers": 0.5}, ["answers is 0.4, at least 0.5 is asked"]),
        ({"answers": float("nan")}, {"answers": 0.5}, ["answers is nan, at least 0.5 is asked"]),
        ({"loss": float("nan")}, {"loss": 9.0}, ["loss is nan, at most 9 is asked"]),
        ({"loss": 9.0}, {}, []),
    ],
)
def test_a_gate_closes_on_what_is_worse_than_its_limit(measured, gate, said):
    assert failures(measured, gate, BETTER) == said


def test_a_gate_on_what_no_task_measures_is_refused():
    with pytest.raises(ValueError, match=r"no task measures\. Did you mean 'answers'"):
        Evaluate(stage="evaluate", models=["base"], tasks=[{"kind": "answers", "rows": "prompts"}], gate={"answer": 0.5})
