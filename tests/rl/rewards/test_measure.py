"""Custom rewards, some of them faulty: scores, and reasons where there is none."""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from raylm.rl.rewards.calling import answers, calling
from raylm.rl.rewards.combine import rollout_of
from raylm.rl.rewards.measure import measured, measured_each
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

PROMPT = Prompt(0, [1], "[]", "ground_truth")


class Says:
    """A reward that does what it is given."""

    def __init__(self, what: Any) -> None:
        self._what = what

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Any:
        return self._what(completion) if callable(self._what) else self._what


class ApiError(Exception):
    """It cannot be made again from its message alone, as it happens when it is unpickled."""

    def __init__(self, message: str, *, response: dict[str, int]) -> None:
        super().__init__(message)
        self.response = response


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def score_group(rewards: list[Any], prompt: Prompt, texts: list[str]) -> list[Score | Unscored]:
    """The sum of all rewards for each of `texts`, or why there is none."""
    drawn = [Trajectory([], [], text, "stop") for text in texts]
    found = [[one for each in drawn for one in answers(calling(reward), prompt, [each])] for reward in rewards]
    names, weights = [str(place) for place in range(len(rewards))], [1.0] * len(rewards)
    rollouts = [
        rollout_of(prompt, each, names, weights, parts) for each, parts in zip(drawn, zip(*found, strict=True), strict=True)
    ]
    return [one.score or one.unscored for one in rollouts if one.score or one.unscored]


def raises(error: BaseException) -> Any:
    def score(completion: str) -> Any:
        raise error

    return score


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        Decimal("0.5"),
        Fraction(1, 2),
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5]),
        torch.tensor(0.5),
        torch.tensor([[0.5]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_holds_one_number_is_a_score(value):
    assert measured(value) == Score(0.5, "")
    found = measured(Score(value, "why"))
    assert found == Score(0.5, "why") and type(found.value) is float


def test_truth_values_and_whole_numbers_are_scores():
    assert [measured(value) for value in (True, np.bool_(False), 3, np.int64(3))] == [
        Score(value, "") for value in (1.0, 0.0, 3.0, 3.0)
    ]
    assert measured((0.5, "a pair")) == Score(0.5, "a pair")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), np.float32("nan"), torch.tensor(float("inf")), 10**400, 1e39, Decimal("NaN")],
)
def test_what_is_not_finite_is_no_score(value):
    found = measured(Score(value, "x"))
    assert isinstance(found, Unscored) and found.kind == "not_finite"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "0.5",
        b"1",
        [0.5],
        [0.5, 0.5],
        (0.5, 0.5),
        {"score": 1.0},
        np.array([]),
        np.zeros(2),
        torch.zeros(2),
        np.array("1.5"),
        1j,
    ],
    ids=repr,
)
def test_what_is_not_one_number_is_no_score(value):
    found = measured(value)
    assert isinstance(found, Unscored) and found.kind == "no_number"
    assert isinstance(measured(Score(value, "x")), Unscored)


def test_a_coroutine_of_a_plain_method_is_no_number():
    async def later(completion: str) -> float:
        return 1.0

    (found,) = score_group([Says(later)], PROMPT, ["a"])
    assert found == Unscored("no_number", "a reward returned a coroutine where a number is needed")


def test_a_list_of_another_length_scores_none_of_them():
    assert measured_each([1, 2.5], 2) == [Score(1.0, ""), Score(2.5, "")] == measured_each(np.array([1, 2.5]), 2)
    assert measured_each(torch.tensor([1, 2.5]), 2)[1] == Score(2.5, "")
    assert measured_each([1, None], 2)[0] == Score(1.0, "")
    for given in ([1.0], [], [1, 2, 3], (1,)):
        assert {one.kind for one in measured_each(given, 2)} == {"wrong_length"}
    # a score alone, a text, a table: none of them is a list of two
    for given in (Score(1.0, "x"), "ab", {"a": 1, "b": 2}, None, 1.0, np.zeros((2, 1))):
        assert {one.kind for one in measured_each(given, 2)} == {"no_number"}


def test_reasons_are_short_and_can_be_written():
    found = measured(Score(1.0, "\ud800" + "x" * 1000))
    assert isinstance(found, Score) and len(found.reason) == 300 and found.reason.encode().decode() == found.reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiError("rate limit reached", response={"status": 429}), "a reward raised ApiError: rate limit reached"),
        (ZeroDivisionError("division by zero"), "a reward raised ZeroDivisionError: division by zero"),
        (SystemExit("bad completion"), "a reward raised SystemExit: bad completion"),
        (KeyboardInterrupt(), "a reward raised KeyboardInterrupt"),
        (MemoryError(), "a reward raised MemoryError"),
        (Mute(), "a reward raised Mute: (its message cannot be read: ValueError)"),
    ],
)
def test_a_reward_that_raises_costs_its_completion_and_leaves_words(error, words):
    (found,) = score_group([Says(raises(error))], PROMPT, ["a"])
    assert found == Unscored("raised", words)


def test_only_the_failed_completions_of_a_prompt_have_no_score():
    values = {"a": 1.0, "b": float("nan"), "c": None, "d": 2}
    found = score_group([Says(values.get), Says(0.5)], PROMPT, list("abcd"))
    assert [one.value if isinstance(one, Score) else one.kind for one in found] == [1.5, "not_finite", "no_number", 2.5]


def test_scores_whose_sum_is_too_large_are_no_score():
    (found,) = score_group([Says(2e38), Says(2e38)], PROMPT, ["a"])
    assert isinstance(found, Unscored) and found.kind == "not_finite"


def test_a_recursion_without_end_is_an_exception_like_others():
    def deeper(completion: str) -> Any:
        return deeper(completion)

    limit = sys.getrecursionlimit()
    (found,) = score_group([Says(deeper)], PROMPT, ["a"])
    assert isinstance(found, Unscored) and found.why.startswith("a reward raised RecursionError")
    assert sys.getrecursionlimit() == limit
