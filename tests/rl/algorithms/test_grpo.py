"""Scored groups and log-probabilities: advantages and loss by hand and against TRL's formulas."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.types import Prompt, Rollout, Score


def group(row, values):
    prompt = Prompt(row, [1, 2], "[]", None)
    return [
        Rollout(prompt, [5, 6, 7], [-1.0, -2.0, -3.0], "x", True, None if value is None else Score(value, "said"))
        for value in values
    ]


def advantages(values, **table):
    return [sample.advantage for sample in Grpo(**table).advantages(group(0, values))]


def test_advantages_by_hand():
    """Mean 0.5; deviation with one degree of freedom less: sqrt(4 * 0.25 / 3)."""
    deviation = math.sqrt(1 / 3)
    assert advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx([0.5 / (deviation + 1e-4) * sign for sign in (1, -1, -1, 1)])
    assert advantages([1.0, 0.0, 0.0, 1.0], scale_rewards=False) == [0.5, -0.5, -0.5, 0.5]


def test_scaling_is_trls():
    """grpo_trainer.py of TRL 1.16, scale_rewards="group": (r - mean) / (nanstd(r) + 1e-4)."""
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([0.1, 0.7, 0.35, 0.7, -2.0])
    expected = (rewards - rewards.mean()) / (nanstd(rewards.view(-1, 5), dim=1) + 1e-4)
    assert advantages(rewards.tolist()) == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.2, 0.1, 0.7])
@pytest.mark.parametrize("count", [3, 6, 8])
def test_groups_of_equal_scores_are_left_out(value, count):
    """Also where the mean of equal numbers is not that number: 0.2 + ... eight times is 1.5999999999999999."""
    assert Grpo().advantages(group(0, [value] * count) + group(1, [0.0, 1.0])) == Grpo().advantages(group(1, [0.0, 1.0]))


def test_what_has_no_score_is_left_out_and_groups_stay_apart():
    samples = Grpo(scale_rewards=False).advantages(group(0, [1.0, None, 0.0]) + group(1, [5.0, 7.0]) + group(2, [None, 1.0]))
    assert [sample.advantage for sample in samples] == [0.5, -0.5, -1.0, 1.0]
    assert samples[0].tokens == [1, 2, 5, 6, 7]
    assert samples[0].num_prompt == 2
    assert samples[0].logprobs == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain"),
    [
        (1.0, 2.0, 2.0),
        (1.1, 2.0, 2.2),
        (1.5, 2.0, 2 * 1.28),  # above the upper clip: no more to gain
        (1.5, -2.0, -3.0),  # and nothing held back from a loss
        (0.5, -2.0, -2 * 0.8),  # below the lower clip: no more to gain
        (0.5, 2.0, 1.0),
    ],
)
def test_clipping_on_both_sides_by_hand(ratio, advantage, gain):
    new = torch.tensor([[math.log(ratio), 0.0]], requires_grad=True)
    found = Grpo().loss(new, torch.zeros(1, 2), torch.tensor([advantage]), torch.tensor([[1.0, 0.0]]))
    assert float(found.total) == pytest.approx(-gain)
    found.total.backward()
    held = gain == pytest.approx(2 * 1.28) or gain == pytest.approx(-2 * 0.8)
    assert float(new.grad[0, 0]) == pytest.approx(0.0 if held else -ratio * advantage)
    assert float(found.metrics["clip_ratio"]) == (0.0 if ratio in (1.0, 1.1) else 1.0)


def test_sums_over_the_mask_and_metrics_by_hand():
    new, old = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, -9.0]]), torch.tensor([[0.0, -1.0, -1.9], [0.0, -2.8, 0.0]])
    mask = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    found = Grpo().loss(new, old, torch.tensor([1.0, -1.0]), mask)
    first, second = math.exp(-0.1), math.exp(-0.2)
    assert float(found.total) == pytest.approx(-(1.0 + first - second), rel=1e-5)
    assert float(found.metrics["nll"]) == pytest.approx(6.0)
    assert float(found.metrics["mismatch_kl"]) == pytest.approx((first - 1 + 0.1) + (second - 1 + 0.2), rel=1e-4)
