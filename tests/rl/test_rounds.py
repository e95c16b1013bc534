"""Takes rounds that teach something or nothing, proves which are counted, said, and end a run."""

from __future__ import annotations

import pytest

from raylm.core.errors import StageError, TrainingError
from raylm.rl.rounds import Rounds, reward_metrics
from raylm.rl.types import Prompt, Rollout, Score, Unscored

PROMPT = Prompt(0, [1], "[]", None)


def rollouts(*scores):
    return [
        Rollout(PROMPT, [5], [-1.0], "x", True, *((None, one) if isinstance(one, Unscored) else (Score(one, ""), None)))
        for one in scores
    ]


NAN, RAISED = Unscored("not_finite", "a score is nan"), Unscored("raised", "a reward raised X")


def test_means_of_nothing_are_absent():
    assert reward_metrics(rollouts(NAN, RAISED, NAN)) == {"unscored": 3, "unscored_not_finite": 2, "unscored_raised": 1}
    assert reward_metrics(rollouts(1.0, NAN, 2.0))["reward"] == 1.5


def test_each_reason_is_said_once(capsys):
    rounds = Rounds()
    for step in range(3):
        rounds.check_scores(rollouts(1.0, NAN, RAISED, NAN), f"round {step}")
    said = capsys.readouterr().err
    assert "round 0: completions are left out" in said
    assert "a score is nan (2 of 4); a reward raised X (1 of 4)" in said
    assert len(said.splitlines()) == 1


def test_all_reasons_are_said_when_nothing_could_be_scored():
    with pytest.raises(StageError, match=r"a score is nan \(2 of 3\); a reward raised X \(1 of 3\)"):
        Rounds().check_scores(rollouts(NAN, RAISED, NAN), "round 7")


def test_three_bad_rounds_end_the_run_and_a_good_one_between_them_forgives():
    rounds = Rounds()
    few = rollouts(1.0, NAN)
    for step in range(9):
        rounds.count(step, few, samples=4 if step % 3 == 2 else 0, finite=True)
    assert rounds.learned == 3
    rounds.count(9, few, samples=4, finite=False)
    rounds.count(10, few, samples=0, finite=True)
    with pytest.raises(TrainingError, match="round 9: its gradient is not finite; round 10: 1 of 2 completions have no score"):
        rounds.count(11, few, samples=0, finite=True)


def test_rounds_that_score_alike_are_no_failure_as_long_as_one_was_learned_from(capsys):
    rounds = Rounds()
    rounds.count(0, rollouts(0.0, 1.0), samples=2, finite=True)
    for step in range(1, 9):
        rounds.count(step, rollouts(1.0, 1.0), samples=0, finite=True)
    rounds.check_end()
    assert capsys.readouterr().err.count("3 rounds in a row taught nothing") == 1
    rounds.go_on_from(learned=0)
    with pytest.raises(TrainingError, match="the weights are those of the start"):
        rounds.check_end()
