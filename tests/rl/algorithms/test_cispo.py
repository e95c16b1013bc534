"""CISPO: the clipped ratio weighs the gradient and has none itself, by hand and against TRL's and verl's."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.rl.algorithms.cispo import Cispo
from raylm.rl.algorithms.rloo import Rloo
from raylm.rl.types import LossInputs
from tests.rl.algorithms.given import advantages, alike, inputs_of, learned, samples_of, trls


def test_a_clipped_token_keeps_its_gradient():
    new = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    old = new.detach() - torch.tensor([[math.log(2.0), math.log(9.0), -math.log(4.0)]])
    found = Cispo().loss(LossInputs(new, old, None, torch.tensor([[1.0, 1.0, -2.0]]), torch.ones(1, 3)))
    found.total.backward()
    assert new.grad is not None
    # ratios 2, 9 (held at 5) and 1/4
    assert new.grad[0].tolist() == pytest.approx([-2.0, -5.0, 0.5])
    assert found.total.item() == pytest.approx(2.0 + 5.0 - 0.5) and found.metrics["clip_ratio"].item() == 1.0


def test_the_loss_is_trls():
    """grpo_trainer.py of TRL 1.16: loss_type="cispo", whose epsilon_high is the greatest ratio."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    card = Cispo(clip_high=0.1)
    expected, gradient = trls(GRPOTrainer, alike(advantages(card)), {"loss_type": "cispo", "epsilon_high": 1.1})
    found, ours = learned(card)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-7)


def test_the_loss_with_a_lower_bound_is_verls():
    """verl 0.9.1, compute_policy_loss_cispo, clip_ratio_low 0.2, clip_ratio_high 0.28, RLOO's advantages, "token-mean"."""
    card = Cispo(clip=0.2, clip_high=0.28)
    samples = [one._replace(weight=1.0) for one in samples_of(Rloo())]
    found = card.loss(inputs_of(card, samples)).total.item() / 18
    assert found == pytest.approx(0.04751889, rel=1e-5)
