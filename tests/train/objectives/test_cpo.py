"""The `cpo` objective: by hand, and loss and gradients against TRL's trainer."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from raylm.train.objectives.cpo import Cpo
from tests.model.tiny import tiny_model
from tests.train.objectives.preferences import PAIRS, assert_gradients, learned, micros, reference_free_peer


def test_loss_and_metrics_by_hand():
    """A uniform policy over 70 tokens: answers of 3 and 2, of 2 and 4 tokens."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    found = learned(Cpo(beta=0.1, cpo_alpha=0.5), model, micros(PAIRS))
    nat = math.log(70)
    losses = [math.log1p(math.exp(0.1 * nat)), math.log1p(math.exp(-0.2 * nat))]
    assert found.loss == pytest.approx(sum(losses) / 2 + 0.5 * nat, rel=1e-5)
    assert found.metrics["margin"] == pytest.approx((-0.1 + 0.2) * nat / 2, rel=1e-5)
    assert found.metrics["accuracy"] == 0.5


def test_smoothing_that_would_change_nothing_is_refused():
    with pytest.raises(ValidationError, match="label_smoothing changes nothing"):
        Cpo(loss_type="hinge", label_smoothing=0.1)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return reference_free_peer(CPOTrainer, CPOConfig, tmp_path_factory.mktemp("cpo"))


@pytest.mark.parametrize("micro", [2, 1])
@pytest.mark.parametrize(
    "options",
    [{"loss_type": "sigmoid"}, {"label_smoothing": 0.2}, {"loss_type": "hinge"}, {"loss_type": "ipo"}, {"cpo_alpha": 0.0}],
    ids=str,
)
def test_loss_and_gradients_equal_trls(peer, options, micro):
    trainer, card = peer.trainer, Cpo(beta=0.3, **options)
    trainer.beta, trainer.loss_type, trainer.cpo_alpha = 0.3, card.loss_type, card.cpo_alpha
    trainer.label_smoothing = card.label_smoothing
    expected, metrics = peer.answers(PAIRS)
    found = learned(card, peer.policy, micros(PAIRS, micro=micro))
    assert found.loss == pytest.approx(expected, rel=1e-5) and found.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert_gradients(found.gradients, peer.theirs)
    assert found.metrics["chosen_reward"] == pytest.approx(metrics["rewards/chosen"], rel=1e-5)
    assert found.metrics["margin"] == pytest.approx(metrics["rewards/margins"], rel=1e-4)
    assert found.metrics["accuracy"] == metrics["rewards/accuracies"]
