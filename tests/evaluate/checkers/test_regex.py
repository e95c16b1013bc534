"""Answers that match, and what an expression takes out of them."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from raylm.data import patterns
from raylm.evaluate.checkers.regex import Regex
from raylm.evaluate.items import Item


def item(truth):
    return Item("x", [], truth, {}, "")


def test_the_last_match_must_be_the_ground_truth():
    card = Regex(pattern=r"answer is \(?([A-D])\)?")
    assert card.check("the answer is (B), no: the answer is C", item("C")) == (1.0, "right")
    assert card.check("the answer is (B)", item("C")) == (0.0, "says 'B'")
    assert card.check("C", item("C")) == (0.0, "no match")
    assert card.unchecked(item(None)) and card.said("the answer is B") == "b" and card.said("B") == ""


def test_without_a_group_a_match_is_right():
    card = Regex(pattern=r"(?i)^sorry")
    assert card.check("Sorry, no.", item(None)).value == 1.0 and card.check("Yes", item(None)).value == 0.0
    assert card.unchecked(item(None)) == ""
    with pytest.raises(ValidationError, match="not a regular expression"):
        Regex(pattern="(")


def test_an_answer_that_an_expression_comes_to_no_end_with_is_wrong(monkeypatch):
    monkeypatch.setattr(patterns, "DEADLINE_S", 0.1)
    card = Regex(pattern=r"^(?:x|xx)+(y)$")
    assert card.check("xxxy", item("y")).value == 1.0
    found = card.check("x" * 60, item("y"))
    assert found.value == 0.0 and "came to no end with a text of 60 letters within 0.1 s" in found.why
    assert card.said("x" * 60) == ""


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\\frac{d}", r"\\fra"),
        (r"x{e}", "hello"),
        (r"{s}", "q"),
        (r"{s}", "a {s}"),
        (r"\\boxed{(\d+)}", r"\\boxed{12}"),
        (r"^a{2}b{,3}c{1,}d{,}$", "aabbccdd"),
        (r"[{e}]", "e"),
        (r"\{a{2}\}", "{aa}"),
    ],
)
def test_an_expression_means_what_it_means_to_python(pattern, text):
    """Braces that are no number of repetitions are braces: elsewhere they ask for matches with faults in them."""
    assert Regex(pattern=pattern).check(text, item("12")).value == float(re.search(pattern, text) is not None)
