"""Iterations with and without signal: which are counted and reported, and when the run ends."""

from __future__ import annotations

import pytest

from raylm.core.errors import StageError, TrainingError
from raylm.rl.iterations import Iterations, reward_metrics
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored

PROMPT = Prompt(0, [1], "[]", None)


def rollouts(*scores):
    return [
        Rollout(
            PROMPT, Trajectory([5], [-1.0], "x", "stop"), *((None, one) if isinstance(one, Unscored) else (Score(one, ""), None))
        )
        for one in scores
    ]


NAN, RAISED = Unscored("not_finite", "a score is nan"), Unscored("raised", "a reward raised X")


def test_means_of_nothing_are_absent():
    assert reward_metrics(rollouts(NAN, RAISED, NAN)) == {"unscored": 3, "unscored_not_finite": 2, "unscored_raised": 1}
    assert reward_metrics(rollouts(1.0, NAN, 2.0))["reward"] == 1.5


def test_each_reason_is_said_once(capsys):
    iterations = Iterations()
    for step in range(3):
        iterations.check_scores(rollouts(1.0, NAN, RAISED, NAN), f"iteration {step}")
    said = capsys.readouterr().err
    assert "iteration 0: completions are left out" in said
    assert "a score is nan (2 of 4); a reward raised X (1 of 4)" in said
    assert len(said.splitlines()) == 1


def test_all_reasons_are_said_when_nothing_could_be_scored():
    with pytest.raises(StageError, match=r"a score is nan \(2 of 3\); a reward raised X \(1 of 3\)"):
        Iterations().check_scores(rollouts(NAN, RAISED, NAN), "iteration 7")


def test_three_bad_rounds_end_the_run_and_a_good_one_between_them_forgives():
    iterations = Iterations()
    few = rollouts(1.0, NAN)
    for step in range(9):
        iterations.count(step, few, samples=4 if step % 3 == 2 else 0, finite=True)
    assert iterations.learned == 3
    iterations.count(9, few, samples=4, finite=False)
    iterations.count(10, few, samples=0, finite=True)
    with pytest.raises(
        TrainingError, match="iteration 9: its gradient is not finite; iteration 10: 1 of 2 completions have no score"
    ):
        iterations.count(11, few, samples=0, finite=True)


def test_iterations_that_score_alike_are_no_failure_as_long_as_one_was_learned_from(capsys):
    iterations = Iterations()
    iterations.count(0, rollouts(0.0, 1.0), samples=2, finite=True)
    for step in range(1, 9):
        iterations.count(step, rollouts(1.0, 1.0), samples=0, finite=True)
    iterations.check_end()
    assert capsys.readouterr().err.count("3 iterations in a row taught nothing") == 1
    iterations.go_on_from(learned=0)
    with pytest.raises(TrainingError, match="the weights are those of the start"):
        iterations.check_end()


def test_a_run_whose_answers_were_all_cut_off_says_so():
    iterations = Iterations()
    for step in range(3):
        iterations.count(step, [], 0, True, masked=4)
    with pytest.raises(TrainingError, match="do not score alike were cut off"):
        iterations.check_end()
