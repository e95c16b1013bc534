"""Tags of a completion: once each, in order, around all that it says."""

from __future__ import annotations

import pytest

from raylm.rl.rewards.format import Format

GOOD = "<think>a\nb</think>\n<answer>42</answer>"


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (GOOD, "has the form"),
        (f"  {GOOD}\n", "has the form"),
        ("<think></think><answer></answer>", "has the form"),
        (f"so {GOOD}", "says something before think"),
        (f"{GOOD} done", "says something after the tags"),
        ("<answer>42</answer><think>a</think>", "says something before think"),
        ("<think>a</think> b <answer>42</answer>", "says something before answer"),
        ("<think>a<answer>42</answer></think>", "has another tag inside of think"),
        (f"{GOOD}{GOOD}", "has not one think, opened and closed"),
        ("<think>a</think>", "has not one answer, opened and closed"),
        ("</think>a<think><answer>42</answer>", "has not one think, opened and closed"),
        ("<think>a</think><answer>42", "has not one answer, opened and closed"),
        ("", "has not one think, opened and closed"),
    ],
)
def test_the_form_and_what_is_wrong_with_others(completion, reason):
    assert Format(value=2.0).score("", completion, None) == (2.0 if reason == "has the form" else 0.0, reason)


def test_a_prompt_may_have_opened_the_first_tag():
    card = Format(opened=True)
    assert card.score("", "a</think><answer>42</answer>", None).value == 1.0
    assert card.score("", GOOD, None).value == 0.0


def test_the_last_part_may_stand_without_a_tag():
    card = Format(last_is_open=True)
    assert card.score("", "<think>a</think> 42", None).value == 1.0
    assert card.score("", "<think>a</think> ", None).reason == "says nothing after the tags"
    assert card.score("", GOOD, None).reason == "has answer in tags"


def test_each_tag_may_earn_its_share():
    card = Format(partial=True, tags=["think", "plan", "answer"], value=3.0)
    said = [f"<plan>x</plan>{GOOD}", GOOD, "<answer>1</answer> <think>", "none"]
    assert [card.score("", one, None).value for one in said] == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("tags", [["<think>"], [], ["a", "a"], ["a b"]])
def test_what_is_no_tag_is_refused(tags):
    with pytest.raises(ValueError, match=r"tag|at least 1"):
        Format(tags=tags)
