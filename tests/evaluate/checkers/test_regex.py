"""Answers that match, and what an expression takes out of them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

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
