"""Learning rates by hand, and which weights decay."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.parallel.optimizers.adamw import AdamW


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 0.1]),
    ],
)
def test_learning_rates_by_hand(schedule, expected):
    """Two steps of warm-up, then three steps from the peak to a tenth of it."""
    card = AdamW(lr=1.0, warmup=2, schedule=schedule, floor=0.1)
    assert [card.lr_at(step, 6) for step in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.02, 0.25, 1.0, 3])
def test_the_peak_is_never_passed_and_the_floor_is_reached(schedule, warmup):
    card = AdamW(lr=0.01, warmup=warmup, schedule=schedule)
    rates = [card.lr_at(step, 10) for step in range(10)]
    assert max(rates) <= 0.01
    assert rates[-1] == pytest.approx(0.01 if schedule == "constant" else 0.001)
    assert card.lr_at(0, 1) <= 0.01


def test_wsd_falls_over_the_last_fifth():
    rates = [AdamW(lr=1.0, warmup=0, schedule="wsd", floor=0.0).lr_at(step, 101) for step in range(101)]
    assert rates[:81] == pytest.approx([1.0] * 81)
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_matrices_decay_and_vectors_do_not():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    model[0].weight.data.fill_(1.0)
    model[1].weight.data.fill_(1.0)
    optimizer = AdamW(lr=0.1, weight_decay=0.5).make(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model[0].weight.data.flatten().tolist() == pytest.approx([0.95] * 4)
    assert model[1].weight.data.tolist() == [1.0, 1.0]


def test_frozen_weights_are_left_out():
    model = torch.nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = AdamW().make(model).param_groups
    assert [len(group["params"]) for group in groups] == [1]
    assert groups[0]["weight_decay"] == 0.0


def test_a_copy_on_another_stage_decays_by_the_name_of_the_original():
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.is_copy = "model.embed_tokens.weight"
    assert AdamW(no_decay=["*embed*"]).make(model).param_groups[0]["weight_decay"] == 0.0
    assert AdamW(no_decay=["weight"]).make(model).param_groups[0]["weight_decay"] == 0.1


def test_paging_is_of_8_bit_moments():
    with pytest.raises(ConfigError, match="paged is of 8-bit moments"):
        AdamW(paged=True)
    assert AdamW(paged=True, bits=8).paged
