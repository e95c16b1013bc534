"""Lion: its update by hand, its resume, and shards do what whole matrices do."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.optimizers.lion import Lion
from tests.parallel.on_ranks import on_ranks
from tests.parallel.optimizers.small import resumes_bit_for_bit, trained_on_two_ranks


def test_two_updates_by_hand():
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -1.0]])
    made = Lion(lr=0.1, weight_decay=0.5, betas=(0.5, 0.9)).make(layer)
    layer.weight.grad = torch.tensor([[2.0, -4.0]])
    made.step()
    # decay by 0.95, then 0.1 against the sign of the gradient; momentum is a tenth of the gradient
    assert layer.weight.tolist() == [pytest.approx([0.85, -0.85])]
    layer.weight.grad = torch.tensor([[-0.1, 1.0]])
    made.step()
    # 0.5 * 0.2 - 0.5 * 0.1 > 0;  0.5 * -0.4 + 0.5 * 1.0 > 0
    assert layer.weight.tolist() == [pytest.approx([0.85 * 0.95 - 0.1, -0.85 * 0.95 - 0.1])]


def test_it_resumes():
    resumes_bit_for_bit(Lion(lr=1e-3))


def test_two_ranks_of_fsdp_do_what_one_does():
    card = Lion(lr=1e-3, warmup=2)
    alone, (first, _) = trained_on_two_ranks(0, 1, card), on_ranks(2, trained_on_two_ranks, card)
    # the sign of a sum near zero may flip with the order of its terms, so weights may differ in single numbers
    assert [row["loss"] for row in first["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=1e-4)
