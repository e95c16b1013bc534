"""Activation checkpointing: the same losses to the digit, with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.parallel.activation_checkpointing import checkpoint_activations, kept_operations
from raylm.parallel.blocks import blocks
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.model.tiny import tiny_model
from tests.parallel.parity import assert_parity

HOW = ["selective", "full"]


def passed(how, dropout=0.0):
    """Bytes that one forward pass keeps, and the gradients of the backward pass after it."""
    model = tiny_model(vocab=64, hidden=64, layers=3).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    if how != "none":
        checkpoint_activations(blocks(model), how)
    tokens_BT = torch.arange(128).view(2, 64) % 64
    torch.manual_seed(1)
    profiler: Any = torch.autograd.profiler.profile(profile_memory=True)
    with profiler as seen:
        hidden_BTD = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    hidden_BTD.square().sum().backward()
    # what was allocated and not freed again
    return sum(event.self_cpu_memory_usage for event in seen.function_events), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("how", HOW)
def test_gradients_are_equal_bit_for_bit(how, dropout):
    plain, found = passed("none", dropout)[1], passed(how, dropout)[1]
    assert all(left.equal(right) for left, right in zip(plain, found, strict=True))


def test_dropout_draws_differ_between_passes():
    """Else the test above would prove nothing."""
    assert not passed("none", 0.3)[1][0].equal(passed("none", 0.0)[1][0])


def test_full_keeps_less_than_selective_and_that_less_than_all():
    none, selective, full = (passed(how)[0] for how in ("none", *HOW))
    assert full < selective / 3 and selective < none * 0.75, (full, selective, none)


@pytest.mark.parametrize(
    ("how", "strategy"),
    [
        ("selective", Fsdp()),
        ("full", Ddp()),
        pytest.param("full", Fsdp(), marks=pytest.mark.long),
        pytest.param("selective", Ddp(), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_checkpointing_on_two_ranks(how, strategy):
    assert_parity(2, strategy, activation_checkpointing=how)


def test_attention_over_documents_is_kept_too():
    from torch.nn.attention import varlen

    assert varlen.varlen_attn is not None
    assert torch.ops.torch_attn._varlen_attn.default in kept_operations()
    assert torch.ops.aten.mm.default in kept_operations()


def test_a_model_that_changes_a_kept_product_in_place_is_refused():
    """As experts with biases do: torch would find it in the backward pass, and say nothing of what to do."""

    class InPlace(torch.nn.Linear):
        def forward(self, input):
            return super().forward(input).add_(1.0).tanh()

    for how in ("selective", "full"):
        block = InPlace(4, 4)
        checkpoint_activations([block], how)
        out = block(torch.ones(2, 4, requires_grad=True)).sum()
        if how == "selective":
            with pytest.raises(ConfigError, match=r"changes that in place\n.*activation_checkpointing = 'full'"):
                out.backward()
        else:
            out.backward()
