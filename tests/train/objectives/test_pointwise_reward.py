"""The `pointwise_reward` objective: losses by hand, gradients against transformers' own classifier of one label, and learning."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.value_head import with_value_head
from raylm.train.objectives.pointwise_reward import PointwiseReward
from tests.model.tiny import tiny_model
from tests.train.objectives.preferences import assert_gradients, learned, micros, planted

ROWS = [
    {"prompt": np.array([1, 40]), "completion": np.array([50, 2]), "label": True},
    {"prompt": np.array([1, 42]), "completion": np.array([61, 62, 2]), "label": False},
]
SCORES = [{"tokens": np.array([1, 40, 50, 2]), "label": 1.5}, {"tokens": np.array([1, 42, 61, 62, 2]), "label": -0.5}]


def reward_model():
    model = with_value_head(tiny_model(vocab=70, hidden=32, layers=1), 3)
    model.score.weight.data.mul_(20)
    return model


def test_losses_by_hand():
    """A head of zeros says 0 of every answer."""
    model = reward_model()
    model.score.weight.data.zero_()
    found = learned(PointwiseReward(), model, micros(ROWS, "Unpaired"))
    assert found.loss == pytest.approx(math.log(2)) and found.metrics["accuracy"] == 0.5
    found = learned(PointwiseReward(loss_type="mse"), model, micros(SCORES, "Labelled"))
    assert found.loss == pytest.approx((1.5**2 + 0.5**2) / 2) and found.metrics["absolute_error"] == pytest.approx(1.0)


@pytest.mark.parametrize("micro", [2, 1])
def test_loss_and_gradients_of_scores_equal_transformers(micro):
    """transformers' classifier of one label is a regression."""
    from transformers.models.llama.modeling_llama import LlamaForSequenceClassification

    ours = reward_model().eval()
    theirs = LlamaForSequenceClassification(copy.deepcopy(ours.config))
    theirs.load_state_dict(ours.state_dict())
    (whole,) = micros(SCORES, "Labelled")
    expected = theirs(input_ids=whole.tokens_BT, attention_mask=whole.attend_BT, labels=whole.columns["label"]).loss
    expected.backward()
    found = learned(PointwiseReward(loss_type="mse"), ours, micros(SCORES, "Labelled", micro=micro))
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_gradients(found.gradients, theirs)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ConfigError, match="bce takes labels from 0 to 1"):
        learned(PointwiseReward(), reward_model(), micros(SCORES, "Labelled"))


def test_a_planted_preference_is_learned():
    model, card = reward_model(), PointwiseReward()
    train, held_out = planted("Unpaired")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for at in range(100):
        learned(card, model, [train[at % len(train)]])
        optimizer.step()
    assert learned(card, model, held_out).metrics["accuracy"] >= 0.95
