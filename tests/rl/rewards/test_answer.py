"""The `answer` reward: which completions give the ground truth."""

from __future__ import annotations

import pytest

from raylm.rl.rewards.answer import Answer

KINDS = ["function", "class", "module"]


@pytest.mark.parametrize(
    ("completion", "ground_truth", "right"),
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
        ("a class", "", False),
    ],
)
def test_the_truth_as_a_whole_word_and_no_other_answer(completion, ground_truth, right):
    assert Answer(among=KINDS, value=2.0).score("", completion, ground_truth).value == (2.0 if right else 0.0)


@pytest.mark.parametrize(
    ("completion", "ground_truth", "right"),
    [
        ("2 + 2 = 4", "4", True),
        ("so #### 1,234", "#### 1234", True),
        ("4 and then 5", "4", False),
        ("the answer is 3.50", "3.5", True),
        ("-7", "7", False),
        ("none", "7", False),
        ("9007199254740993", "9007199254740992", False),
        ("7/4", "3/4", False),
        ("0.75", "3/4", True),
        ("7", "no number", False),
    ],
)
def test_the_last_number(completion, ground_truth, right):
    assert Answer(last_number=True).score("", completion, ground_truth).value == float(right)


def test_reasons_say_why():
    card = Answer(among=KINDS)
    assert card.score("", "class, module", "class").reason == "also says module"
    assert card.score("", "x", "class").reason == "does not say the answer"
    assert card.score("", "x", None).reason == "the prompt has no ground truth"


def test_what_there_is_nothing_to_compare_with_cannot_be_scored():
    assert [Answer().can_score(ground_truth) for ground_truth in ("class", "", " ", None)] == [True, False, False, False]
    assert not Answer(last_number=True).can_score("class")


def test_another_way_to_write_the_truth_is_no_second_answer():
    assert Answer(among=["0.5", "1/2", "2"]).score("", "it is 1/2", "0.5").value == 1.0


@pytest.mark.parametrize(
    ("completion", "right"),
    [("<think>4? no, 5</think> 4", True), ("<think>it is 4", False), ("it is 4 </think> so 5", False), ("so 4", True)],
)
def test_a_thought_is_no_answer(completion, right):
    for card in (Answer(), Answer(last_number=True)):
        assert card.score("", completion, "4").value == float(right)


def test_a_thought_that_the_prompt_opened_is_no_answer():
    card = Answer(opened=True)
    assert [card.score("", said, "4").value for said in ("it is 4", "5? no </think> 4", "4 </think> 5")] == [0.0, 1.0, 0.0]
