"""Takes completions and truths, proves which of them earn the reward of a right answer."""

from __future__ import annotations

import pytest

from raylm.rl.rewards.answer import Answer

KINDS = ["function", "class", "module"]


@pytest.mark.parametrize(
    ("completion", "truth", "right"),
    [
        ("It is a class.", "class", True),
        ("It is a CLASS", "class", True),
        ("subclass", "class", False),
        ("classes", "class", False),
        ("A function.", "class", False),
        ("a class or a function or a module", "class", False),
        ("", "class", False),
        ("C++ it is", "C++", True),
        ("a class", None, False),
    ],
)
def test_the_truth_as_a_whole_word_and_no_other_answer(completion, truth, right):
    assert Answer(among=KINDS, value=2.0).score("", completion, truth).value == (2.0 if right else 0.0)


@pytest.mark.parametrize(
    ("completion", "truth", "right"),
    [
        ("2 + 2 = 4", "4", True),
        ("so #### 1,234", "#### 1234", True),
        ("4 and then 5", "4", False),
        ("the answer is 3.50", "3.5", True),
        ("-7", "7", False),
        ("none", "7", False),
    ],
)
def test_the_last_number(completion, truth, right):
    assert Answer(last_number=True).score("", completion, truth).value == float(right)


def test_reasons_say_why():
    card = Answer(among=KINDS)
    assert card.score("", "class, module", "class").reason == "also says module"
    assert card.score("", "x", "class").reason == "does not say the answer"
    assert card.score("", "x", None).reason == "the prompt has no truth"
