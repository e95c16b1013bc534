"""Metrics of rollouts against numbers worked by hand."""

from __future__ import annotations

from statistics import pstdev

import pytest

from raylm.rl.iterations import reward_metrics
from raylm.rl.rollout_metrics import experience_metrics, score_metrics
from raylm.rl.types import Experience
from tests.rl.rollouts import learned, some


def test_spread_parts_sources_and_groups_that_teach_nothing():
    others = [one._replace(prompt=one.prompt._replace(row=one.prompt.row + 1)) for one in some()]
    assert "source_reward/sums" not in score_metrics(some()), "each prompt has a source of its own"
    assert score_metrics([*some(), *others])["source_reward/words"] == 0.75
    found = score_metrics(some())
    # 1.25, 0.25, 0.75, 0.75
    assert found["reward_std"] == pytest.approx(0.125**0.5)
    assert found["reward/answer"] == 0.5 and found["reward/length"] == 0.25
    assert found["reward_std_zero_share"] == 0.5 and found["cut_share"] == 0.25 and found["completion_tokens_max"] == 3
    assert reward_metrics(some())["unscored"] == 1.0
    assert "turns" not in found


def test_one_reward_and_one_source_are_not_told_twice():
    alone = [one._replace(parts={"answer": one.parts["answer"]} if one.parts else None) for one in some()[:2]]
    assert not [name for name in score_metrics(alone) if "/" in name]
    assert score_metrics([some()[-1]]) == {}


def test_turns_and_what_environments_count():
    one = some()[0]
    played = [
        one._replace(trajectory=one.trajectory._replace(num_turns=turns, metrics={"calls": calls}))
        for turns, calls in ((1, 2.0), (4, 4.0))
    ]
    assert score_metrics(played) | {"turns": 2.5, "environment/calls": 3.0} == score_metrics(played)
    # one that called nothing counts too
    silent = one._replace(trajectory=one.trajectory._replace(metrics={}))
    assert score_metrics([*played, silent])["environment/calls"] == 2.0


def test_advantages_and_staleness_by_token():
    rollouts = some()
    found = experience_metrics(rollouts, learned(rollouts), version=6)
    assert found["learned_share"] == 0.4
    # +0.5 on 2 tokens, -0.5 on 3
    assert found["advantage_std"] == pytest.approx((0.25 - 0.1**2) ** 0.5)
    # versions 4 and 5: of the first completion 1 and 1 tokens, of the second 1 and 2
    assert found["staleness"] == pytest.approx((2 * 2 + 3 * 1) / 5) and found["staleness_max"] == 2
    # by token, and masked: 1, 3 of the first, -0.5 on 3 of the second
    first, second = learned(rollouts).samples
    by_token = [first._replace(advantages=[1.0, 3.0]), second]
    values = [1.0, 3.0, -0.5, -0.5, -0.5]
    assert experience_metrics(rollouts, Experience(by_token, [3], 0), 6)["advantage_std"] == pytest.approx(pstdev(values))
    masked = [by_token[0]._replace(mask=[0, 1]), second._replace(mask=[0, 0, 0])]
    assert experience_metrics(rollouts, Experience(masked, [3], 0), 6)["advantage_std"] == 0.0
    assert experience_metrics(rollouts, Experience([], [], 0), 6) == {"learned_share": 0.0}
