"""Right as often as sure: by likelihoods, and by what a model says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raylm.core.errors import DataError
from raylm.evaluate.instances import Graded
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.calibration import STATE, Calibration, stated
from tests.evaluate.fakes import Says
from tests.model.tiny import tiny_checkpoint


def prompt(at, truth, **columns):
    turns = [{"role": "user", "content": f"Which is {at}?"}]
    columns = json.dumps(columns) if columns else None
    return {"tokens": [1, 40, at + 41], "messages": json.dumps(turns), "ground_truth": truth, "columns": columns}


def sure(confidence, right):
    values = {"calibration_brier": (confidence - right) ** 2, "calibration_accuracy": float(right)}
    return Graded("x", values, dict.fromkeys(values, 1.0), {"confidence": f"{confidence}"})


def test_the_error_of_a_hand_worked_table():
    """Bin 0.6-0.7: two answers, one right: |0.65 - 0.5|; bin 0.9-1: two answers, both right: |0.95 - 1|."""
    card = Calibration(rows="rows")
    graded = [sure(0.6, True), sure(0.7 - 1e-9, False), sure(0.9, True), sure(1.0, True)]
    found = card.summary(graded)
    assert found["calibration_error"] == pytest.approx((2 * 0.15 + 2 * 0.05) / 4, abs=1e-6)
    assert found["calibration_accuracy"] == 0.75
    assert found["calibration_brier"] == pytest.approx((0.16 + 0.49 + 0.01 + 0) / 4, abs=1e-6)
    assert [count for count, _, _ in card.bins(graded)] == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]


def test_likelihoods_of_the_choices(tmp_path):
    path = str(tiny_checkpoint(tmp_path / "tiny", vocab=300, layers=1))
    choices = ["a class", "a module"]
    rows = [prompt(0, "a module", choices=choices), prompt(1, "1", choices=choices), prompt(2, "A", choices=choices)]
    lm = LM(path)
    found = Calibration(rows="rows").grade(lm, rows)
    answers = [lm.tokenizer.encode(choice) for choice in choices]
    tokens = [[1, 40, 41, *answer] for answer in answers]
    nats = np.array(lm.logprob_sums(tokens, [[0] * 3 + [1] * len(answer) for answer in answers]))
    shares = np.exp(nats) / np.exp(nats).sum()
    assert float(found[0].facts["confidence"]) == pytest.approx(shares.max(), abs=1e-5)
    assert found[0].values["calibration_accuracy"] == float(shares.argmax() == 1)
    assert [one.output for one in found[:1]] == [choices[shares.argmax()]]
    with pytest.raises(DataError, match="2 of 2 texts without choices and which of them is right"):
        Calibration(rows="rows").grade(lm, [prompt(0, "a function", choices=choices), prompt(1, "x")])


def test_a_question_without_one_of_its_choices_is_left_out_and_no_more_than_a_tenth_are(tmp_path):
    """One choice of four is longer than the model in two of five questions: a tenth of the choices, and four tenths of them."""
    path = str(tiny_checkpoint(tmp_path / "tiny", vocab=300, layers=1, max_len=16))
    long = "a class defines a new type of object; a module is a file of code"
    rows = [prompt(at, "b", choices=["a", "b", "c", long if at < 2 else "d"]) for at in range(5)]
    with pytest.raises(DataError, match="no grade: 2 of 5 instances have none: 2 of 20 texts longer than"):
        Calibration(rows="rows").grade(LM(path), rows)


def test_stated_confidence_and_what_cannot_be_read():
    seen = []

    def answered(prompts, max_tokens):
        seen.extend(prompts)
        return ["4\nConfidence: 80%"] * (len(prompts) - 1) + ["4, I am sure"]

    rows = [prompt(at, "4" if at < 6 else "5") for at in range(11)]
    lm = LM("nowhere", answerer=Says(answered, reads_tokens=False))
    card = Calibration(rows="rows", confidence="stated")
    found = card.grade(lm, rows)
    assert len(found) == 10 and lm.notes() == ["without 1 of 11 texts without a confidence that can be read"]
    assert seen[0][0]["content"].endswith(STATE) and (card.needs, card.any_tokenizer) == ("generate", True)
    assert card.summary(found)["calibration_error"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("4\nConfidence: 70%", ("4", 0.7)),
        ("4 confidence: 0.7", ("4", 0.7)),
        ("Confidence: 20%, no.\n4\n**Confidence:** 85", ("Confidence: 20%, no.\n4\n**", 0.85)),
        ("4\nConfidence: 170%", None),
        ("70%", None),
    ],
)
def test_what_is_read_as_a_confidence(text, read):
    assert stated(text) == read


def test_the_report_shows_how_right_answers_are_that_are_so_sure():
    heading, html = Calibration(rows="rows").section({"policy": [sure(0.9, True), sure(0.95, False)]})
    assert heading == "Reliability of calibration" and "data:image/png;base64,iVBOR" in html
    assert "0.90 to 1.00" in html and "0.925" in html and "0.500" in html
