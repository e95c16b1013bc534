"""Takes tensor and sequence parallel layouts, proves that each trains as one rank does."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.parallel.plans import FAMILIES, plan_of, style_of
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE
from tests.parallel.parity import assert_parity

HEADS = {**SHAPE, "num_heads": 4, "num_kv_heads": 2}
BOTH = pytest.mark.parametrize("sequence", [False, True], ids=["tensor", "sequence"])


@BOTH
@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_two_tensor_ranks(strategy, sequence):
    assert_parity(2, strategy, mesh={"tensor": 2, "sequence": sequence}, model=HEADS)


@BOTH
@pytest.mark.parametrize(
    "shape",
    [
        {**HEADS, "kind": "qwen3", "tie_embeddings": False},
        {**HEADS, "num_kv_heads": 4, "tie_embeddings": False},
    ],
    ids=["qwen3-untied", "llama-untied"],
)
def test_families(shape, sequence):
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=shape)


@BOTH
@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_tensor_with_data_parallel(strategy, sequence):
    assert_parity(4, strategy, mesh={"tensor": 2, "sequence": sequence}, model=HEADS)


def test_tensor_with_hybrid_sharding():
    assert_parity(8, Fsdp(), mesh={"tensor": 2, "replicas": 2}, model={**HEADS, "tie_embeddings": False})


@BOTH
def test_tensor_with_a_reference(sequence):
    table = {"kind": "Pairs", "objective": {"kind": "dpo"}}
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=HEADS, **table)


@BOTH
def test_tensor_with_adapters(sequence):
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=HEADS, adapter={"rank": 2})


def test_four_tensor_ranks_share_more_ranks_than_tokens():
    assert_parity(4, Fsdp(), mesh={"tensor": 4}, model={**HEADS, "num_kv_heads": 4}, micro=1)


def test_what_cannot_be_cut_is_refused_in_words():
    from transformers import GPT2Config, LlamaConfig

    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "intermediate_size": 64}
    with pytest.raises(ConfigError, match="num_key_value_heads = 2"):
        plan_of(LlamaConfig(**sizes), 4)
    with pytest.raises(ConfigError, match="vocab_size = 63"):
        plan_of(LlamaConfig(**{**sizes, "vocab_size": 63}), 2)
    with pytest.raises(ConfigError, match="'gpt2', only for llama"):
        plan_of(GPT2Config(), 2)


def test_names_find_their_style_also_below_adapters():
    plan = FAMILIES["qwen3"]
    at = "base_model.model.model.layers.3.self_attn"
    expected = {
        "model.layers.3": "block",
        "model.layers.3.self_attn": "enter",
        "model.layers.3.self_attn.q_proj": "column",
        "model.layers.3.self_attn.q_norm": "summed",
        "model.layers.3.input_layernorm": "tokens",
        "model.norm": "whole",
        "model.rotary_emb": None,
        f"{at}.q_proj.base_layer": "column",
        f"{at}.q_proj.lora_A.default": "summed",
        f"{at}.q_proj.lora_B.default": "column",
        f"{at}.o_proj.lora_A.default": "row",
        f"{at}.o_proj.lora_B.default": "tokens",
        f"{at}.o_proj.lora_A": None,
    }
    assert {name: style_of(name, plan) for name in expected} == expected
