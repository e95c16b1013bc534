"""GSPO: one ratio per completion, by hand and against TRL's and verl's."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.rl.algorithms.gspo import Gspo
from raylm.rl.algorithms.rloo import Rloo
from raylm.rl.types import LossInputs
from tests.rl.algorithms.given import advantages, alike, inputs_of, learned, samples_of, trls


def test_the_ratio_by_hand():
    """Log-ratios of 0.3 and -0.1 have the geometric mean e^0.1; each token's gradient is half of the ratio's."""
    new = torch.tensor([[0.0, 0.3, -0.1]], requires_grad=True)
    mask = torch.tensor([[0.0, 0.5, 0.5]])  # weights of a mean over two tokens
    zeros = torch.zeros(1, 3)
    found = Gspo(clip=0.2, clip_high=0.2).loss(LossInputs(new * (mask > 0), zeros, None, torch.full((1, 3), 2.0), mask))
    assert found.total.item() == pytest.approx(-2 * math.exp(0.1))
    found.total.backward()
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([0.0, -math.exp(0.1), -math.exp(0.1)])
    held = Gspo().loss(LossInputs(new.detach() * (mask > 0), zeros, None, torch.full((1, 3), 2.0), mask))
    assert held.total.item() == pytest.approx(-2 * 1.0004) and held.metrics["clip_ratio"].item() == 1.0


@pytest.mark.parametrize(("clip", "high"), [(3e-4, 4e-4), (0.2, 0.28)])
def test_the_loss_is_trls(clip, high):
    """grpo_trainer.py of TRL 1.16: importance_sampling_level="sequence", loss_type="grpo"."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    card = Gspo(clip=clip, clip_high=high)
    config = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": clip, "epsilon_high": high}
    expected, gradient = trls(GRPOTrainer, alike(advantages(card)), config)
    found, ours = learned(card)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-7)


def test_the_loss_is_verls():
    """verl 0.9.1, compute_policy_loss_gspo, clip_ratio_low 0.03, clip_ratio_high 0.04, RLOO's advantages."""
    card = Gspo(clip=0.03, clip_high=0.04)
    samples = [one._replace(weight=1 / len(one.logprobs)) for one in samples_of(Rloo())]
    assert card.loss(inputs_of(card, samples)).total.item() / 6 == pytest.approx(0.11909018, rel=1e-5)
