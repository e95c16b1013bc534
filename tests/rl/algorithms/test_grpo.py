"""Scored groups and log-probabilities: advantages and loss by hand and against TRL's formulas."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.types import LossInputs, Prompt, Rollout, Score, Trajectory, experience_of


def experience(*groups):
    """Groups of rewards, of the prompts 0, 1, ...; None has no score."""
    rollouts = [
        Rollout(
            Prompt(row, [1, 2], "[]", None),
            Trajectory([5, 6, 7], [-1.0, -2.0, -3.0], "x", "stop"),
            None if one is None else Score(one, ""),
        )
        for row, rewards in enumerate(groups)
        for one in rewards
    ]
    return experience_of(rollouts, list(range(len(groups))), 0)


def advantages(values, **table):
    return of_tokens(Grpo(**table).advantages(experience(values)))


def of_tokens(found):
    """The advantage of each sample, which is that of all its tokens."""
    assert all(sample.advantages == sample.advantages[:1] * 3 for sample in found.samples)
    return [sample.advantages[0] for sample in found.samples]


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
    found = Grpo().advantages(experience([value] * count, [0.0, 1.0]))
    assert of_tokens(found) == advantages([0.0, 1.0]) and {sample.row for sample in found.samples} == {1}


def test_what_has_no_score_is_left_out_and_groups_stay_apart():
    found = Grpo(scale_rewards=False).advantages(experience([1.0, None, 0.0], [5.0, 7.0], [None, 1.0]))
    assert of_tokens(found) == [0.5, -0.5, -1.0, 1.0] and found.rows == [0, 1, 2]
    samples = found.samples
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
    inputs = LossInputs(new, torch.zeros(1, 2), None, torch.tensor([[advantage] * 2]), torch.tensor([[1.0, 0.0]]))
    found = Grpo().loss(inputs)
    assert float(found.total) == pytest.approx(-gain)
    found.total.backward()
    held = gain == pytest.approx(2 * 1.28) or gain == pytest.approx(-2 * 0.8)
    assert float(new.grad[0, 0]) == pytest.approx(0.0 if held else -ratio * advantage)
    assert float(found.metrics["clip_ratio"]) == (0.0 if ratio in (1.0, 1.1) else 1.0)


def test_sums_over_the_mask_and_metrics_by_hand():
    new, old = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, -9.0]]), torch.tensor([[0.0, -1.0, -1.9], [0.0, -2.8, 0.0]])
    mask = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    found = Grpo().loss(LossInputs(new, old, None, torch.tensor([[1.0], [-1.0]]).expand(2, 3), mask))
    first, second = math.exp(-0.1), math.exp(-0.2)
    assert float(found.total) == pytest.approx(-(1.0 + first - second), rel=1e-5)
    assert float(found.metrics["nll"]) == pytest.approx(6.0)
    assert float(found.metrics["mismatch_kl"]) == pytest.approx((first - 1 + 0.1) + (second - 1 + 0.2), rel=1e-4)
