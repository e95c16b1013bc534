"""Answers compared by their mathematical value."""

from __future__ import annotations

import math

import pytest

from raylm.data.mathematics import installed
from raylm.evaluate.checkers.numeric import Numeric, _checked
from raylm.evaluate.items import Item


@pytest.mark.skipif(not installed(), reason="math-verify is not installed")
def test_values_are_compared():
    with Numeric().checking() as check:

        def value(text, truth):
            return check(text, Item("x", [], truth, {}, "")).value

        assert value(r"It is \boxed{\frac{2}{4}}", "0.5") == 1.0
        assert value("so 7/4", "3/4") == 0.0


def test_a_truth_that_cannot_be_read_makes_no_answer_wrong():
    assert math.isnan(_checked(None, "unreadable").value)


def test_answers_agree_by_their_last_number():
    said = Numeric().said
    assert said("I think 3, no: 0.50") == said(r"\boxed{1/2}") != said("2")
    assert said("no idea") == "no idea"
