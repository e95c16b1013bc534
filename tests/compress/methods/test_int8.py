"""The `int8` method: half a scale of error per weight, measured activations, logits near the original's."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.methods.int8 import Int8
from tests.compress.small import ROWS, rounded
from tests.model.tiny import tiny_model


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_every_weight_is_within_half_a_scale_and_logits_stay_near(tmp_path, activations):
    found = rounded(Int8(activations=activations), tmp_path)
    names = [name for name, tensor in found.stored.items() if tensor.dtype == torch.int8]
    assert len(names) == 7
    for name in names:
        scale, weight = found.stored[f"{name}_scale"], found.original[name]
        error = (found.stored[name].float() * scale - weight).abs()
        assert bool((error <= scale / 2 * 1.001).all()), name
        assert bool((scale[:, 0] * 127.5 >= weight.abs().amax(1) * 0.999).all()), "no weight lies outside its scale"
    assert ("model.layers.0.mlp.up_proj.input_scale" in found.stored) is (activations == "static")
    assert found.divergence() < 5e-4
    assert found.agreement() > 0.95
    assert not torch.equal(found.logits, found.rounded_logits)


def test_the_output_head_stays_as_it_is(tmp_path):
    found = rounded(Int8(), tmp_path)
    assert torch.equal(found.stored["model.embed_tokens.weight"], found.original["model.embed_tokens.weight"])


def test_ranges_are_the_largest_inputs_seen():
    model = tiny_model(vocab=300, layers=1).eval()
    seen = {}
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.setdefault("all", []).append(inputs[0]))
    ranges = Calibration(list(ROWS)).absmax(model)
    assert ranges["model.layers.0.mlp.down_proj"] == float(max(tensor.abs().max() for tensor in seen["all"]))
    assert len(ranges) == 8
    assert not model.lm_head._forward_pre_hooks
