"""The `next_token` objective: the cross-entropy against transformers and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylm.data.batch import pad
from raylm.model.scores import ask
from raylm.train.objectives.next_token import NextToken
from tests.model.tiny import tiny_model

ROWS = [np.array([5, 9, 60, 12]), np.array([7, 8, 9, 10, 11, 12])]
MASKS = [np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0, 0, 1])]


def micro(masks=MASKS):
    return pad(ROWS, masks, 0)


def loss(model, made, **fields):
    card = NextToken(**fields)
    inputs = card.inputs(made, 0)
    return card.loss(ask(model, inputs, card.asks()), inputs, made)


def weight(made):
    return NextToken().weight(made, NextToken().inputs(made, 0))


def test_the_mean_equals_transformers_own_loss():
    model = tiny_model(vocab=70, hidden=32, layers=2).eval()
    made = micro()
    labels = made.tokens_BT.masked_fill(made.weight_BT == 0, -100)
    expected = model(input_ids=made.tokens_BT, attention_mask=made.attend_BT, labels=labels).loss
    found = loss(model, made)
    torch.testing.assert_close(found.total / weight(made), expected, atol=1e-6, rtol=0)
    assert float(found.metrics["loss"]) == float(found.total)


def test_a_uniform_model_loses_log_v_per_token():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    assert float(loss(model, micro()).total) == pytest.approx(5 * math.log(70))


def test_the_gradient_is_that_of_transformers():
    ours, theirs = (tiny_model(vocab=70, hidden=32, layers=1) for _ in range(2))
    made = micro()
    (loss(ours, made).total / weight(made)).backward()
    labels = made.tokens_BT.masked_fill(made.weight_BT == 0, -100)
    theirs(input_ids=made.tokens_BT, attention_mask=made.attend_BT, labels=labels).loss.backward()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_tokens_outside_the_mask_do_not_count_as_targets():
    """What follows the last counted token changes nothing."""
    model = tiny_model(vocab=70, hidden=32, layers=2).eval()
    masks = [np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])]
    first = float(loss(model, micro(masks)).total)
    made = micro(masks)
    made.tokens_BT[0, 3], made.tokens_BT[1, 4:] = 33, 44
    assert float(loss(model, made).total) == pytest.approx(first, abs=1e-6)
    made.tokens_BT[1, 3] = 44
    assert float(loss(model, made).total) != pytest.approx(first, abs=1e-3)


def test_z_loss_by_hand():
    """Logits of a uniform model are 0, so their log-sum-exp is log V."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    found = loss(model, micro(), z_loss=0.1)
    assert float(found.total) == pytest.approx(5 * (math.log(70) + 0.1 * math.log(70) ** 2), rel=1e-5)
    assert float(found.metrics["loss"]) == pytest.approx(5 * math.log(70), rel=1e-5)
