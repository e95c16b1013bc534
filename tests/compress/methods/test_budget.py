"""The search for bits per layer against every choice there is, and what engines fuse stays together."""

from __future__ import annotations

import itertools

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.methods.budget import BITS, Unit, choose, divergence, originals, units_of
from raylm.compress.methods.grid import Grid
from tests.compress.small import ROWS
from tests.compress.test_coverage import KEYS, made
from tests.model.tiny import tiny_model

UNITS = [
    Unit((f"layer{index}",), (size, 2.0 * size, 4.0 * size), (cost, cost / 200, 0.0))
    for index, (size, cost) in enumerate(((10.0, 0.5), (10.0, 0.02), (40.0, 0.3), (5.0, 0.3), (20.0, 0.001)))
]


@pytest.mark.parametrize("most", [1.0, 0.4, 0.1, 0.02, 0.005])
def test_the_bytes_are_near_the_fewest_that_keep_the_divergence(most):
    found = choose(UNITS, most, None)
    assert found.cost <= most
    every = itertools.product(range(3), repeat=len(UNITS))
    best = min(
        sum(unit.bytes[at] for unit, at in zip(UNITS, places, strict=True))
        for places in every
        if sum(unit.cost[at] for unit, at in zip(UNITS, places, strict=True)) <= most
    )
    # greedy: at most the largest step of one layer above the optimum
    assert best <= found.bytes <= best + max(unit.bytes[1] - unit.bytes[0] for unit in UNITS)


def test_bytes_are_spent_where_they_help_most():
    found = choose(UNITS, None, 120.0)
    assert found.bytes <= 120.0
    assert found.bits == {"layer0": 8, "layer1": 8, "layer2": 4, "layer3": 16, "layer4": 4}
    assert set(choose(UNITS, None, 10.0).bits.values()) == {BITS[0]}, "the caller is told what the smallest choice takes"


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("gemma2", {"final_logit_softcapping": 0.5, **KEYS}),
        ("cohere", {"logit_scale": 0.1}),
    ],
)
def test_a_model_that_scales_or_caps_its_logits_is_no_divergence_from_itself(family, fields):
    model = made(family, **fields).eval()
    for weight in model.parameters():
        weight.data *= 4.0 if weight.dim() > 1 else 1.0
    own = originals(model, Calibration(list(ROWS)))
    assert divergence(model, own) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        bare = model.get_output_embeddings()(own.hidden[0])
        assert float((bare - model(input_ids=own.rows[0][None]).logits[0]).abs().max()) > 0.1, "nothing is scaled here"


def test_each_unit_is_judged_alone_and_the_model_is_as_before():
    model = tiny_model(vocab=300, layers=1).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    own = originals(model, Calibration(list(ROWS)))
    assert divergence(model, own) == pytest.approx(0, abs=1e-6)
    names = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear and name != "lm_head"]
    units = units_of(model, names, Grid(4, 32, half=True), own)
    assert [[name.rpartition(".")[2] for name in unit.names] for unit in units] == [
        ["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"],
    ]  # fmt: skip
    assert all(unit.cost[0] > 20 * unit.cost[1] > 0 == unit.cost[2] for unit in units)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
