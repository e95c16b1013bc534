"""The `orpo` objective: by hand, and loss and gradients against TRL's trainer."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.train.objectives.orpo import Orpo, log1mexp
from tests.model.tiny import tiny_model
from tests.train.objectives.preferences import (
    PAIRS,
    assert_gradients,
    learned,
    micros,
    of_one_token,
    reference_free_peer,
)


def test_loss_and_metrics_by_hand():
    """A uniform policy over 70 tokens: the odds of all answers are 1 to 69."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    found = learned(Orpo(beta=0.5), model, micros(PAIRS))
    assert found.loss == pytest.approx(math.log(70) + 0.5 * math.log(2), rel=1e-5)
    assert found.metrics["nll"] == pytest.approx(math.log(70), rel=1e-5)
    assert found.metrics["log_odds"] == pytest.approx(0.0, abs=1e-5) and found.metrics["margin"] == pytest.approx(0.0, abs=1e-5)
    assert found.metrics["chosen_reward"] == pytest.approx(-0.5 * math.log(70), rel=1e-5)


def test_log1mexp_is_exact_near_and_far_and_has_a_gradient():
    x = torch.tensor([-1e-6, -0.1, -0.7, -30.0, 0.0], requires_grad=True)
    found = log1mexp(x)
    exact = [math.log(-math.expm1(value)) for value in (-1e-6, -0.1, -0.7, -30.0, -1e-7)]
    assert found.tolist() == pytest.approx(exact, rel=1e-5)
    found.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return reference_free_peer(ORPOTrainer, ORPOConfig, tmp_path_factory.mktemp("orpo"))


@pytest.mark.parametrize("micro", [2, 1])
def test_loss_and_gradients_equal_trls(peer, micro):
    """TRL's NLL is over prompts too: these are of one token, which nothing predicts."""
    peer.trainer.beta = 0.4
    expected, metrics = peer.answers(of_one_token())
    found = learned(Orpo(beta=0.4), peer.policy, micros(of_one_token(), micro=micro))
    assert found.loss == pytest.approx(expected, rel=1e-5) and found.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert_gradients(found.gradients, peer.theirs)
    assert found.metrics["chosen_reward"] == pytest.approx(metrics["rewards/chosen"], rel=1e-5)
    assert found.metrics["margin"] == pytest.approx(metrics["rewards/margins"], rel=1e-4)
    assert found.metrics["accuracy"] == metrics["rewards/accuracies"]
    assert found.metrics["nll"] == pytest.approx(metrics["nll_loss"], rel=1e-5)
    assert found.metrics["log_odds"] == pytest.approx(metrics["log_odds_chosen"], rel=1e-4)
