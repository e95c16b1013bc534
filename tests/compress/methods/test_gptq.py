"""The `gptq` method: nearer to the original than rounding to nearest at the same bits, in the same format."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.methods.gptq import Gptq
from raylm.compress.methods.int4 import Int4
from raylm.core.errors import DataError
from tests.compress.small import ROWS, rounded
from tests.model.tiny import tiny_model


def test_it_is_nearer_than_rounding_to_nearest_at_equal_bits(tmp_path):
    nearest, found = (rounded(card(group_size=32), tmp_path / card.__name__) for card in (Int4, Gptq))
    assert found.divergence() < 0.5 * nearest.divergence()
    assert {name: tensor.shape for name, tensor in found.stored.items()} == {
        name: tensor.shape for name, tensor in nearest.stored.items()
    }


def test_a_searched_scale_is_nearer_than_that_of_the_largest_weight(tmp_path):
    nearest, found = (rounded(Int4(group_size=32, observer=each), tmp_path / each) for each in ("minmax", "mse"))
    assert found.divergence() < nearest.divergence()


def test_activations_that_are_not_finite_are_refused():
    model = tiny_model(vocab=300, layers=1)
    model.model.layers[0].input_layernorm.weight.data[0] = torch.inf
    with pytest.raises(DataError, match=r"activations that enter model\.layers\.0\..* are not all finite"):
        Gptq(group_size=32).apply(model, Calibration(list(ROWS)))
