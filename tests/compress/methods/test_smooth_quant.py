"""The `smooth_quant` method: where a few activations are large, 8 bits per layer are far better than without it."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.drift import drift
from raylm.compress.methods.int8 import Int8
from raylm.compress.methods.smooth_quant import SmoothQuant
from tests.compress.small import ROWS, outliers, rounded


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_outliers_no_longer_set_the_scale_of_all_others(activations):
    calibration = Calibration(list(ROWS))
    found = []
    for card in (Int8(activations=activations), SmoothQuant(activations=activations)):
        model = outliers()
        done = card.apply(model, calibration)
        found.append(drift(outliers(), model, calibration.batches())["kl"])
    assert done.facts == {"smoothed": "4 of 4 groups of layers"}
    assert found[1] < 0.2 * found[0]


def test_what_is_written_loads_as_the_model_in_memory(tmp_path):
    found = rounded(SmoothQuant(), tmp_path)
    assert sum(tensor.dtype == torch.int8 for tensor in found.stored.values()) == 7
    assert found.divergence() < 5e-4 and found.agreement() > 0.95
