"""8-bit AdamW: it is bitsandbytes' own, its state is portable and exact, and its memory."""

from __future__ import annotations

import copy

import pytest
import torch

from raylm.parallel.optimizers.adamw import AdamW
from tests.parallel.on_ranks import on_ranks
from tests.parallel.optimizers.small import resumes_bit_for_bit, small, trained_on_two_ranks, updated


@pytest.mark.parametrize("paged", [False, True])
def test_updates_are_those_of_bitsandbytes(paged):
    from bitsandbytes.optim import AdamW8bit

    ours, theirs = small(), small()
    made = AdamW(lr=1e-2, weight_decay=0.0, bits=8, paged=paged).make(ours)
    other = AdamW8bit(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    assert updated(ours, made, 6) == updated(theirs, other, 6)
    assert all(left.equal(right) for left, right in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_it_resumes_bit_for_bit():
    resumes_bit_for_bit(AdamW(lr=1e-2, bits=8))


def test_moments_of_large_matrices_take_a_quarter():
    model = small()
    made = AdamW(bits=8).make(model)
    updated(model, made, 1)
    held = made._inner.state[made._local[model[1].weight]]
    size = sum(held[name].numel() * held[name].element_size() for name in ("state1", "state2", "absmax1", "absmax2"))
    assert size == pytest.approx(2 * 96 * 64 * (1 + 4 / 256))


def test_it_goes_on_from_thirty_two_bits_and_back():
    model = small()
    plain = AdamW(lr=1e-2).make(model)
    updated(model, plain, 4)
    saved = copy.deepcopy(plain.state_dict())
    eight = AdamW(lr=1e-2, bits=8).make(model)
    eight.load_state_dict(saved)
    back = eight.state_dict()["state"]
    for index, state in saved["state"].items():
        assert float(back[index]["step"]) == 4.0
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(back[index][name], state[name], rtol=0.15, atol=float(state[name].abs().max()) * 0.02)


def test_two_ranks_of_fsdp_do_nearly_what_one_does():
    """Shards have other blocks of 256, so equal only as 8 bits are."""
    card = AdamW(lr=1e-2, warmup=2, bits=8)
    alone, (first, _) = trained_on_two_ranks(0, 1, card), on_ranks(2, trained_on_two_ranks, card)
    assert [row["loss"] for row in first["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=5e-3)
