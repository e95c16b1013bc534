"""What is told before the run of the differences that it can show, and of limits that it cannot hold."""

from __future__ import annotations

import pytest

from raylm.core.config import resolve
from raylm.core.errors import ConfigError
from raylm.evaluate.config import Evaluate
from raylm.evaluate.intervals import detectable
from raylm.evaluate.resolution import before_the_run, count_of
from raylm.evaluate.tasks.injection import DOCUMENTS


def evaluate(**more):
    tasks = [
        {"kind": "answers", "rows": "prompts", "num_rows": 200},
        {"kind": "bits_per_byte", "rows": "tokens", "num_rows": 100},
    ]
    return Evaluate.model_validate({"stage": "evaluate", "models": ["base", "sft"], "tasks": tasks} | more)


def test_the_smallest_difference_is_told_before_the_run():
    lines = before_the_run(evaluate(), lambda rows: None)
    assert lines == [
        "answers: 200 instances find differences in answers of 8.8 points or more, 80% of the time, at 95% confidence (if 20% of "
        "the answers differ)",
        "bits_per_byte: 100 instances find differences in bits_per_byte of 0.28 standard deviations (of one instance's "
        "difference) or more, 80% of the time, at 95% confidence",
    ]
    assert f"{100 * detectable(200):.1f}" == "8.8"


def test_rows_that_are_fewer_count_as_they_are():
    few = before_the_run(evaluate(), lambda rows: 8 if rows == "prompts" else 1000)
    assert few[0] == "answers: 8 instances are too few to tell models apart that differ on 20% of them"
    assert few[1].startswith("bits_per_byte: 100 instances")
    assert before_the_run(evaluate(models=["base"]), lambda rows: None) == []
    assert len(before_the_run(evaluate(models=["base"], against="earlier"), lambda rows: None)) == 2


def test_a_limit_that_the_rows_cannot_show_is_refused():
    cfg = evaluate(gate={"answers": {"at_least": 0.9}})
    assert len(before_the_run(cfg, lambda rows: None)) == 2
    with pytest.raises(ConfigError, match=r"gate\.answers: .* cannot be shown with 8 instances"):
        before_the_run(cfg, lambda rows: 8)
    warned = before_the_run(evaluate(gate={"answers": {"not_below": "base", "by": 0.01}}), lambda rows: None)
    assert warned[1].startswith("gate answers: with 200 instances a model exactly as good as base does not pass by = 0.01")


def test_attacks_on_one_topic_count_once():
    """Eight topics attacked in all ways are eight independent instances."""
    cards = {name: {"kind": name} for name in ("injection", "prompt_leak", "jailbreak")}
    made = Evaluate.model_validate({"stage": "evaluate", "models": ["a", "b"], "tasks": list(cards.values())})
    for card in map(resolve, made.tasks):
        found = count_of(card, lambda rows: None)
        assert found and found == card.num_clusters < card.num_cases
    lines = before_the_run(made, lambda rows: None)
    assert lines[0].startswith(f"injection: {len(DOCUMENTS)} instances are too few")
