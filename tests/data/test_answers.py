"""Which texts give the true answer."""

from __future__ import annotations

import pytest

from raylm.data.answers import final, ground_truth_of, last_number_is, same, says


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("It is 3.", "3", True),
        ("-3", "3", False),
        ("13", "3", False),
        ("3.5", "3", False),
        ("1/3", "3", False),
        ("3rd", "3", False),
        ("a half: 0.5", "1/2", True),
        ("1,000", "1000", True),
        ("13 apples", "3 apples", False),
        ("-3 apples", "3 apples", False),
        ("3 apples", "3 apples", True),
        ("x = 35", "x = 3", False),
        ("C++ it is", "C++", True),
        ("anything", "", False),
        ("", " ", False),
        ("not 3 but \\boxed{4}", "3", False),
        ("not 3 but \\boxed{4}", "4", True),
        ("\\boxed{\\frac{3}{4}}", "0.75", True),
    ],
)
def test_what_a_text_says(text, answer, right):
    assert says(text, answer) is right


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("123456789*987654321 = 121932631112635268", "121932631112635269", False),
        ("121932631112635269", "121932631112635269", True),
        ("9007199254740993", "9007199254740992", False),
        ("1" * 400, "2" * 400, False),
        ("7/4", "3/4", False),
        ("1e5", "5", False),
        ("5km", "5", True),
        ("#### 42\nof 7 apples", "so 6 * 7\n#### 42", True),
        ("no number", "42", False),
        ("42", "no number", None),
    ],
)
def test_the_last_number_is_compared_exactly(text, answer, right):
    assert last_number_is(text, answer) is right


def test_words_and_numbers_are_the_same_answer_when_they_mean_the_same():
    assert same("Class", "class ") and same("1/2", "0.5")
    assert not same("class", "classes") and not same("3", "-3")


def test_nothing_is_no_truth():
    assert [ground_truth_of(value) for value in (None, "", "  \n", " 3 ", 3)] == [None, None, None, "3", "3"]


def test_a_mark_that_is_not_closed_marks_nothing():
    assert final("a \\boxed{b") == "a \\boxed{b"
