"""Takes rows with a mask, proves the cross-entropy against transformers and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylm.model.logprobs import pad
from raylm.train.batches import Micro
from raylm.train.objectives.next_token import NextToken
from tests.model.tiny import tiny_model

ROWS = [np.array([5, 9, 60, 12]), np.array([7, 8, 9, 10, 11, 12])]
MASKS = [np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0, 0, 1])]


def micro(masks=MASKS):
    padded = pad(ROWS, masks, 0)
    return Micro(padded, float(padded.weight_BT.sum()), torch.ones(2))


def test_the_mean_equals_transformers_own_loss():
    model = tiny_model(vocab=70, hidden=32, layers=2).eval()
    made = micro()
    labels = made.padded.tokens_BT.masked_fill(made.padded.weight_BT == 0, -100)
    expected = model(input_ids=made.padded.tokens_BT, attention_mask=made.padded.attend_BT, labels=labels).loss
    found = NextToken().loss(model, made)
    torch.testing.assert_close(found.total / made.weight, expected, atol=1e-6, rtol=0)
    assert float(found.metrics["loss"]) == float(found.total)


def test_a_uniform_model_loses_log_v_per_token():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    assert float(NextToken().loss(model, micro()).total) == pytest.approx(5 * math.log(70))


def test_the_gradient_is_that_of_transformers():
    ours, theirs = (tiny_model(vocab=70, hidden=32, layers=1) for _ in range(2))
    made = micro()
    (NextToken().loss(ours, made).total / made.weight).backward()
    labels = made.padded.tokens_BT.masked_fill(made.padded.weight_BT == 0, -100)
    theirs(input_ids=made.padded.tokens_BT, attention_mask=made.padded.attend_BT, labels=labels).loss.backward()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_tokens_outside_the_mask_do_not_count_as_targets():
    """What follows the last counted token changes nothing."""
    model = tiny_model(vocab=70, hidden=32, layers=2).eval()
    masks = [np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])]
    first = float(NextToken().loss(model, micro(masks)).total)
    made = micro(masks)
    made.padded.tokens_BT[0, 3], made.padded.tokens_BT[1, 4:] = 33, 44
    assert float(NextToken().loss(model, made).total) == pytest.approx(first, abs=1e-6)
    made.padded.tokens_BT[1, 3] = 44
    assert float(NextToken().loss(model, made).total) != pytest.approx(first, abs=1e-3)
