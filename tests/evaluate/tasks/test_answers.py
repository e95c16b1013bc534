"""Answers and ground truths: which of them are right."""

from __future__ import annotations

import pytest

from raylm.core.errors import DataError
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.answers import Answers
from tests.evaluate.fakes import Says

KINDS = ["function", "class", "module"]


def graded(texts, ground_truths, among=KINDS):
    rows = [{"tokens": [1, row], "ground_truth": ground_truth} for row, ground_truth in enumerate(ground_truths)]
    asked = []

    def generator(prompts, max_tokens):
        asked.append((prompts, max_tokens))
        return [texts[prompt[1]] for prompt in prompts]

    made = Answers(rows="rows", among=among).grade(LM("nowhere", answerer=Says(generator)), rows)
    return means(made)["answers"], asked


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("It is a class.", True),
        ("CLASS", True),
        ("a subclass", False),
        ("a class and a module", False),
        ("", False),
        ("function", False),
        ("<think>No module.</think>class", True),
        ("<think>Is it a class?</think>It is a module.", False),
        ("<think>It may be a class, for", False),
    ],
)
def test_the_truth_as_a_whole_word_and_no_other(text, right):
    assert graded([text], ["class"])[0] == float(right)


def test_a_truth_that_is_written_in_another_case_than_its_kind_is_no_second_answer():
    assert graded(["It is a class."], ["class"], among=["Class", "Module"])[0] == 1.0


@pytest.mark.parametrize(
    ("text", "right"), [("3", True), ("-3", False), ("13", False), ("3.0", True), ("9/3", True), ("3 or 4", False)]
)
def test_numbers_are_compared_by_their_exact_value(text, right):
    assert graded([text], ["3"], among=["3", "4"])[0] == float(right)


def test_the_share_counts_prompts_that_have_a_truth():
    share, asked = graded(["class", "class", "class", "module", ""], ["class", None, "module", "module", ""])
    assert share == pytest.approx(2 / 3)
    assert asked == [([[1, 0], [1, 2], [1, 3]], 32)]


def test_prompts_without_any_truth_are_refused():
    with pytest.raises(DataError, match="no prompt has a ground truth"):
        graded(["class"], [None])
