"""KL and flipped tokens against numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from raylm.compress.drift import drift
from raylm.core.errors import DataError
from tests.model.tiny import tiny_model


class Fixed(torch.nn.Module):
    """The same probabilities after every token."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=False)
        self.logits = torch.tensor(probabilities).log()

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_the_divergence_is_from_the_original_to_the_changed_one():
    ids = torch.zeros(2, 3, dtype=torch.long)
    found = drift(Fixed(0.5, 0.25, 0.25), Fixed(0.25, 0.5, 0.25), [ids])
    assert found["kl"] == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert (found["flipped"], found["held_tokens"]) == (1.0, 6.0)


def test_a_model_is_equal_to_itself():
    model = tiny_model(vocab=300, layers=1)
    assert drift(model, model, [torch.arange(20)[None]]) == {"kl": 0.0, "flipped": 0.0, "held_tokens": 20.0}


def test_numbers_that_are_not_finite_are_refused_and_what_is_ruled_out_counts_nothing():
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(DataError, match="nan nats from the original"):
        drift(Fixed(0.5, 0.5), Fixed(math.nan, 0.5), [ids])
    found = drift(Fixed(0.5, 0.5, 0.0), Fixed(0.25, 0.75, 0.0), [ids])
    assert found["kl"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
