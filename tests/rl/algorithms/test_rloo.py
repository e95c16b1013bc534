"""RLOO: advantages by hand, against TRL's and verl's; the loss of whole completions against TRL's."""

from __future__ import annotations

import pytest
import torch

from raylm.rl.algorithms.rloo import Rloo
from tests.rl.algorithms.given import MASK, REWARDS, advantages, alike, given, inputs_of, learned, padded, samples_of, trls


def test_advantages_by_hand():
    """Each of four against the mean of the three others."""
    samples = [one._replace(row=0, reward=reward) for one, reward in zip(given().samples, (1.0, 0.0, 0.0, 0.5), strict=False)]
    found = samples_of(Rloo(), samples)
    assert [one.advantages[0] for one in found] == pytest.approx([1 - 0.5 / 3, -0.5, -0.5, 0.5 - 1 / 3])


def test_advantages_are_verls():
    """verl 0.9.1, compute_rloo_outcome_advantage."""
    assert alike(advantages(Rloo())) == pytest.approx([1.0, -1.0, -0.75, 0.75, -1.0, 1.0])


def test_normalised_advantages_are_trls():
    """rloo_trainer.py of TRL 1.16: (A - nanmean) / (nanstd + 1e-4) over the batch."""
    from trl.trainer.utils import nanstd

    raw = torch.tensor(alike(advantages(Rloo())))
    expected = (raw - torch.nanmean(raw)) / (nanstd(raw) + 1e-4)
    assert alike(advantages(Rloo(normalize_advantages=True))) == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_group_with_one_score_or_equal_ones_teaches_nothing():
    samples = given().samples
    rest = [samples[0], samples[2]._replace(reward=0.1), samples[3]._replace(reward=0.1), *samples[4:]]
    assert [one.row for one in samples_of(Rloo(), rest)] == [2, 2]


@pytest.mark.parametrize(("clip", "high"), [(0.2, 0.2), (0.02, 0.05), (0.9, 9.0)])
def test_the_loss_is_trls(clip, high):
    """The product of a completion's ratios is clipped, each completion weighs the same."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    found, gradient = learned(Rloo(clip=clip, clip_high=high))
    old = (padded([one.logprobs for one in given().samples]) * MASK).sum(1)
    config = {"epsilon_low": clip, "epsilon_high": high}
    expected, expected_gradient = trls(RLOOTrainer, alike(advantages(Rloo())), config, old_logps=old)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_completions_that_share_a_row_keep_their_own_ratio():
    """Two completions laid one behind the other, with another order of their places, lose what they lose in rows of their own."""
    card = Rloo()
    samples = samples_of(card)
    apart = inputs_of(card, samples)
    flat = [value.reshape(1, -1) for value in (apart.logprob_BT, apart.old_BT, apart.advantage_BT, apart.mask_BT)]
    numbers = torch.arange(6).repeat_interleave(5)[None]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    together = apart._replace(
        logprob_BT=flat[0][:, order],
        old_BT=flat[1][:, order],
        advantage_BT=flat[2][:, order],
        mask_BT=flat[3][:, order],
        generator_BT=None,
        sample_BT=numbers[:, order],
    )
    assert card.loss(together).total.item() == pytest.approx(card.loss(apart).total.item(), rel=1e-6)
    assert card.divisor(samples) == len(REWARDS)
