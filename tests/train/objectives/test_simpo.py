"""The `simpo` objective: by hand, and loss and gradients against TRL's trainer."""

from __future__ import annotations

import math

import pytest

from raylm.train.objectives.simpo import Simpo
from tests.model.tiny import tiny_model
from tests.train.objectives.preferences import PAIRS, assert_gradients, learned, micros, reference_free_peer


def test_loss_by_hand():
    """Of a uniform policy all rewards are equal, and gamma is what is asked for."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    found = learned(Simpo(beta=2.0, gamma=0.7), model, micros(PAIRS))
    assert found.loss == pytest.approx(math.log1p(math.exp(0.7)), rel=1e-5)
    assert found.metrics["chosen_reward"] == pytest.approx(-2 * math.log(70), rel=1e-5)
    assert found.metrics["margin"] == pytest.approx(0.0, abs=1e-5)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return reference_free_peer(CPOTrainer, CPOConfig, tmp_path_factory.mktemp("simpo"))


@pytest.mark.parametrize("micro", [2, 1])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"cpo_alpha": 0.4}], ids=str)
def test_loss_and_gradients_equal_trls(peer, options, micro):
    trainer, card = peer.trainer, Simpo(beta=2.5, gamma=0.8, **options)
    trainer.beta, trainer.simpo_gamma, trainer.loss_type = 2.5, 0.8, "simpo"
    trainer.cpo_alpha, trainer.label_smoothing = card.cpo_alpha, card.label_smoothing
    expected, metrics = peer.answers(PAIRS)
    found = learned(card, peer.policy, micros(PAIRS, micro=micro))
    assert found.loss == pytest.approx(expected, rel=1e-5) and found.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert_gradients(found.gradients, peer.theirs)
    assert found.metrics["chosen_reward"] == pytest.approx(metrics["rewards/chosen"], rel=1e-5)
    assert found.metrics["margin"] == pytest.approx(metrics["rewards/margins"], rel=1e-4)
    assert found.metrics["accuracy"] == metrics["rewards/accuracies"]
