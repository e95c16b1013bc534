"""Answers that are the ground truth, and those that only hold it."""

from __future__ import annotations

import pytest

from raylm.evaluate.checkers.exact import Exact
from raylm.evaluate.items import Item


def item(truth):
    return Item("x", [], truth, {}, "")


@pytest.mark.parametrize(
    ("text", "truth", "whole", "within"),
    [
        ("Paris", "paris", 1, 1),
        (" Paris.\n", "Paris", 1, 1),
        ("It is Paris", "Paris", 0, 1),
        ("so\n#### 1,000", "1000", 1, 1),
        (r"\boxed{0.5}", "1/2", 1, 1),
        ("Parisian", "Paris", 0, 0),
        ("", "Paris", 0, 0),
    ],
)
def test_the_whole_answer_or_a_part_of_it(text, truth, whole, within):
    assert Exact().check(text, item(truth)).value == whole
    assert Exact(whole=False).check(text, item(truth)).value == within


def test_answers_agree_by_what_they_say():
    said = Exact().said
    assert said("#### 1,000.") == said("1000") != said("1000%")
    assert said("Paris.") == said(" paris")
    assert Exact().unchecked(item(None)) == "without a ground truth"
