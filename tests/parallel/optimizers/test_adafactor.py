"""Adafactor: what it holds, its update against torch's own, its resume, and shards do what whole
matrices do."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.optimizers.adafactor import Adafactor
from tests.parallel.on_ranks import on_ranks
from tests.parallel.optimizers.small import resumes_bit_for_bit, small, trained_on_two_ranks, updated


def test_a_matrix_costs_a_row_and_a_column():
    model = small()
    made = Adafactor().make(model)
    updated(model, made, 1)
    held = made.state[model[1].weight]
    assert held["row_var"].numel() + held["col_var"].numel() == 96 + 64


def test_updates_are_those_of_torch():
    ours, theirs = small(), small()
    made = Adafactor(lr=1e-2, weight_decay=0.1).make(ours)
    other = torch.optim.Adafactor(Adafactor(lr=1e-2, weight_decay=0.1).groups(theirs), lr=1e-2)
    assert updated(ours, made, 6) == pytest.approx(updated(theirs, other, 6), abs=1e-6)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_it_resumes():
    resumes_bit_for_bit(Adafactor())


def test_two_ranks_of_fsdp_do_what_one_does():
    card = Adafactor(lr=1e-2, warmup=2)
    alone, (first, _) = trained_on_two_ranks(0, 1, card), on_ranks(2, trained_on_two_ranks, card)
    assert [row["loss"] for row in first["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=1e-5)
    assert not torch.equal(first["weights"]["model.norm.weight"], torch.ones(32))
