"""Log-probabilities of the tokens of padded rows, by hand and against transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylm.data.batch import pad
from raylm.model.scores import token_logprobs
from tests.model.tiny import tiny_model

ROWS = [np.array([5, 9, 60]), np.array([7, 8, 9, 10, 11])]
ONES = [np.ones(3), np.ones(5)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_are_those_of_each_row_alone(temperature):
    model = tiny_model(vocab=70, hidden=32, layers=2).eval()
    with torch.no_grad():
        found = token_logprobs(model, pad(ROWS, ONES, 0), temperature)
        for row, tokens in enumerate(ROWS):
            logits = model(torch.tensor(tokens)[None]).logits[0, :-1] / temperature
            expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[1:, None])[:, 0]
            torch.testing.assert_close(found[row, 1 : len(tokens)], expected, atol=1e-5, rtol=0)
    assert found[:, 0].tolist() == [0.0, 0.0]


def test_a_uniform_model_gives_every_token_one_in_v():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    found = token_logprobs(model, pad(ROWS, ONES, 0))
    assert found[1, 1:].tolist() == pytest.approx([-math.log(70)] * 4)
