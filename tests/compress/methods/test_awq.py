"""The `awq` method: nearer to the original than rounding to nearest, most of all where few inputs are large."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.drift import drift
from raylm.compress.methods.awq import Awq
from raylm.compress.methods.gptq import Gptq
from raylm.compress.methods.int4 import Int4
from raylm.compress.methods.smooth_quant import SmoothQuant
from tests.compress.small import ROWS, outliers, rounded
from tests.model.tiny import tiny_model


def test_where_few_inputs_are_large_it_is_nearer_than_rounding_to_nearest():
    calibration = Calibration(list(ROWS))
    found = []
    for card in (Int4(group_size=32, observer="mse"), Awq(group_size=32)):
        model = outliers()
        card.apply(model, calibration)
        found.append(drift(outliers(), model, calibration.batches())["kl"])
    assert found[1] < 0.5 * found[0]


def test_what_is_written_loads_as_the_model_in_memory(tmp_path):
    found = rounded(Awq(group_size=32), tmp_path)
    assert sum(name.endswith("weight_packed") for name in found.stored) == 7
    assert found.divergence() < 5e-3


def test_large_inputs_get_the_small_errors():
    """One input of 64 is 50 times the others: its weights are kept best."""
    model = tiny_model(vocab=300, layers=1).eval()
    model.model.layers[0].input_layernorm.weight.data[7] = 50.0
    layer = model.model.layers[0].self_attn.q_proj
    norm, weight = model.model.layers[0].input_layernorm.weight.clone(), layer.weight.clone()
    done = Awq(group_size=32).apply(model, Calibration(list(ROWS)))
    assert done.facts == {"smoothed": "4 of 4 groups of layers"}
    with torch.no_grad():
        model(input_ids=ROWS[:1])
        scale = norm / model.model.layers[0].input_layernorm.weight.float()
        wrong = ((layer.weight.float() / scale) - weight).square().mean(0)
    assert float(wrong[7]) < 0.3 * float(wrong.mean())


def with_an_expert_that_nobody_visits() -> torch.nn.Module:
    model = tiny_model(vocab=300, layers=1).eval()
    mlp = model.model.layers[0].mlp
    mlp.spare = torch.nn.ModuleDict({"up_proj": torch.nn.Linear(64, 64), "down_proj": torch.nn.Linear(64, 64)})
    return model


@pytest.mark.parametrize(
    "card", [Awq(group_size=32), Gptq(group_size=32), SmoothQuant(activations="dynamic")], ids=lambda card: card.kind
)
def test_an_expert_that_no_token_came_to_is_rounded_to_nearest_and_named(card, capsys):
    model = with_an_expert_that_nobody_visits()
    done = card.apply(model, Calibration(list(ROWS)))
    spare = [f"model.layers.0.mlp.spare.{name}" for name in ("down_proj", "up_proj")]
    assert done.facts["rounded_to_nearest"] == spare
    assert "2 layers saw no calibration token and are rounded to nearest" in capsys.readouterr().out
    assert all(hasattr(model.get_submodule(name), "weight_scale") for name in spare)
