"""Tiny networks: FLOPs are what torch counts while they run forward and backward."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from raylm.model.flops import flops_per_row, flops_per_token
from raylm.model.shapes import AnyShape
from tests.model.shapes.built import EXPERTS, SMALL, TOKENS

GROUPED = {"q_lora_rank": 12, "num_groups": 4, "groups_per_token": 2, "num_shared_experts": 2}


@pytest.mark.parametrize(
    "table",
    [
        SMALL | {"num_kv_heads": 2},
        SMALL | {"kind": "qwen2", "tie_embeddings": False},
        SMALL | {"kind": "qwen3"},
        EXPERTS | {"kind": "qwen3_moe", "first_dense_layers": 1},
        EXPERTS | {"kind": "deepseek_v3"},
        EXPERTS | {"kind": "deepseek_v3"} | GROUPED,
        SMALL | {"kind": "bert", "dropout": 0.0},
    ],
    ids=str,
)
def test_torch_counts_the_same(table):
    model = TypeAdapter(AnyShape).validate_python(table).build(TOKENS, 0)
    found = _counted(model, 2, input_ids=torch.randint(3, 70, (2, 10)))
    assert flops_per_row(model.config.to_dict(), 10) * 2 == found
    assert flops_per_token(model.config.to_dict(), 10) * 20 == found


def test_encoder_decoders_have_two_lengths():
    model = TypeAdapter(AnyShape).validate_python(SMALL | {"kind": "t5"}).build(TOKENS, 0)
    ids = torch.randint(3, 70, (2, 10))
    assert flops_per_row(model.config.to_dict(), 10, 6) * 2 == _counted(model, 2, input_ids=ids, decoder_input_ids=ids[:, :6])


def test_by_hand():
    # 6 x (4 x 4 x 4 attention + 3 x 4 x 8 feed-forward + 4 x 5 head) x 3 tokens, 6 x 4 x 2 x 9 pairs
    shape = TypeAdapter(AnyShape).validate_python({"hidden_size": 4, "num_layers": 1, "num_heads": 2, "intermediate_size": 8})
    assert flops_per_row(shape.config({"vocab_size": 5}), 3) == 6 * (64 + 96 + 20) * 3 + 6 * 4 * 2 * 9


def _counted(model, rows, **feed):
    # other ways of attention and of experts are kernels that torch's counter does not know on CPUs
    for module in model.modules():
        # T5's cross attention has a config of its own, which set_attn_implementation does not reach
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(**feed, use_cache=False).logits.sum().backward()
    return counter.get_total_flops()
