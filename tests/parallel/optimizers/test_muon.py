"""Muon: which parameters it takes, its update by hand, its resume, and shards do what whole matrices do."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.optimizers.muon import Muon
from raylm.parallel.strategies.ddp import Ddp
from tests.parallel.loops import SHAPE
from tests.parallel.on_ranks import on_ranks
from tests.parallel.optimizers.small import resumes_bit_for_bit, small, trained_on_two_ranks, updated
from tests.parallel.parity import trained


def test_embedding_output_layer_and_vectors_are_left_to_adamw():
    model = small()
    made = Muon(lr=0.02, lr_rest=0.002).make(model)
    muon, adamw = made.members
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [model[1].weight.shape]
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(list(model.parameters())) - 1
    assert [group["lr_scale"] for group in adamw.param_groups] == pytest.approx([0.1] * len(adamw.param_groups))


def test_the_update_of_a_matrix_is_nearly_orthogonal():
    model = small()
    made = Muon(lr=1.0, weight_decay=0.0).make(model)
    before = model[1].weight.detach().clone()
    updated(model, made, 1)
    values = torch.linalg.svdvals(model[1].weight.detach() - before)
    # five Newton-Schulz steps bring singular values that are not tiny to between 0.7 and 1.2, times sqrt(rows / columns)
    assert values[:8].min() > 0.6 and values.max() < 1.3 * (96 / 64) ** 0.5


def test_it_learns_and_resumes():
    model = small()
    losses = updated(model, Muon(lr=0.05).make(model), 40)
    assert losses[-1] < 0.7 * losses[0]
    resumes_bit_for_bit(Muon(lr=0.02))


def test_tensor_ranks_leave_the_same_parameters_to_adamw():
    """A module whose matrix is cut shows another `weight` each time: an embedding taken for a hidden matrix learns otherwise."""
    table = {"model": SHAPE | {"num_kv_heads": 2}, "optimizer": {"kind": "muon", "lr": 0.01, "warmup": 2}}
    alone = trained(0, 1, Ddp(), table)
    for found in on_ranks(2, trained, Ddp(), {**table, "mesh": {"tensor": 2}}):
        assert [row["loss"] for row in found["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=2e-4)


def test_two_ranks_of_fsdp_do_what_one_does():
    card = Muon(lr=0.01, warmup=2)
    alone, (first, second) = trained_on_two_ranks(0, 1, card), on_ranks(2, trained_on_two_ranks, card)
    for found in (first, second):
        # torch orthogonalises in bfloat16
        assert [row["loss"] for row in found["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=2e-4)
