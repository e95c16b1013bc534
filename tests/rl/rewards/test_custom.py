"""Somebody else's rewards: weighed, named, and reported apart."""

from __future__ import annotations

import pytest

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.rl.iterations import reward_metrics
from raylm.rl.rewards.check import check_reward
from raylm.rl.rewards.combine import rollout_of
from raylm.rl.rewards.custom import Custom
from raylm.rl.rewards.pattern import Pattern
from raylm.rl.rewards.reward import names_of
from raylm.rl.types import Prompt, Score, Trajectory, Unscored
from tests.rl.samples import config

PROMPT = Prompt(0, [1], "[]", None)
DRAWN = Trajectory([5, 6], [-1.0, -1.0], "ab", "stop")


class Plain:
    """No Config, and without a kind."""

    def score(self, prompt, completion, ground_truth):
        return len(completion)


class Nothing:
    pass


class Own(Config):
    kind: str = "own"

    def score_group(self, prompt, completions, ground_truth):
        return [1.0] * len(completions)


def test_names_are_those_given_or_the_kinds_and_no_two_are_alike():
    cards = [
        Pattern(pattern="a"),
        Pattern(pattern="b"),
        Pattern(pattern="c", name="tags"),
        Custom(path=f"{__name__}:Plain"),
        Custom(path=f"{__name__}:Own", name="tags"),
        Custom(path=f"{__name__}:Own"),
    ]
    assert names_of(cards) == ["pattern", "pattern_2", "tags", "Plain", "tags_2", "own"]


def test_a_score_is_the_weighed_sum_and_each_part_is_kept_as_it_was():
    rollout = rollout_of(PROMPT, DRAWN, ["a", "b"], [2.0, -0.5], [Score(1.0, "right"), Score(4.0, "long")])
    assert rollout.score == Score(0.0, "right; long")
    assert rollout.parts == {"a": Score(1.0, "right"), "b": Score(4.0, "long")}
    other = rollout_of(PROMPT, DRAWN, ["a", "b"], [2.0, -0.5], [Score(0.0, ""), Score(0.0, "")])
    metrics = reward_metrics([rollout, other])
    assert (metrics["reward"], metrics["reward/a"], metrics["reward/b"]) == (0.0, 0.5, 2.0)


def test_an_environments_reward_is_one_more_part():
    rollout = rollout_of(PROMPT, DRAWN._replace(reward=3.0), ["a"], [0.5], [Score(1.0, "right")])
    assert rollout.score == Score(3.5, "right; the environment's") and set(rollout.parts) == {"a", "environment"}
    alone = rollout_of(PROMPT, DRAWN._replace(reward=3.0), [], [], [])
    assert alone.score == Score(3.0, "the environment's")
    broken = rollout_of(PROMPT, DRAWN._replace(reward=float("nan")), ["a"], [0.5], [Score(1.0, "right")])
    assert broken.score is None and broken.unscored.kind == "not_finite"


def test_one_part_without_a_score_leaves_the_whole_without_one():
    why = Unscored("raised", "a reward raised ValueError")
    rollout = rollout_of(PROMPT, DRAWN, ["a", "b"], [1.0, 1.0], [Score(1.0, ""), why])
    assert rollout.score is None and rollout.unscored == why and rollout.parts == {"a": Score(1.0, "")}


def test_weights_and_names_are_part_of_the_job():
    cfg = config(rewards=[{"kind": "custom", "path": f"{__name__}:Plain", "weight": 0.5, "name": "size"}])
    assert cfg.rewards[0].weight == 0.5 and names_of(cfg.rewards) == ["size"]
    with pytest.raises(ValueError, match="weight"):
        config(rewards=[{"kind": "custom", "path": "x:Y", "weight": float("nan")}])


def test_a_class_without_a_method_is_refused():
    check_reward(Custom(path=f"{__name__}:Own"), "rewards.0")
    with pytest.raises(ConfigError, match="has no method score"):
        check_reward(Custom(path=f"{__name__}:Nothing"), "rewards.0")
