"""Shapes: what all have in common: seeds obeyed, vocabulary from the rows, mistakes refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from raylm.core.errors import ConfigError
from raylm.model.shapes import AnyShape
from raylm.model.shapes.llama import Llama
from raylm.model.shapes.qwen3_moe import Qwen3Moe
from tests.model.shapes.built import EXPERTS, SMALL, TOKENS


def test_the_seed_alone_decides_the_weights():
    first, again, other = (Llama(**SMALL).build(TOKENS, seed).state_dict() for seed in (3, 3, 4))
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    assert any(not tensor.equal(other[name]) for name, tensor in first.items())
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_the_rows_say_vocabulary_and_special_tokens():
    config = Llama(**SMALL, max_length=99).build(TOKENS, 0).config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (70, 1, 2, 0)
    assert config.max_position_embeddings == 99
    with pytest.raises(ConfigError, match="nothing of eos_token_id"):
        Llama(**SMALL).build({name: value for name, value in TOKENS.items() if name != "eos_token_id"}, 0)


@pytest.mark.parametrize(
    ("kind", "table", "said"),
    [
        (Llama, {"hidden_size": 30}, "hidden_size 30 is not a multiple of num_heads 4"),
        (Llama, {"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        (Qwen3Moe, {"experts_per_token": 9}, "experts_per_token 9 is more than num_experts 8"),
        (Qwen3Moe, {"expert_size": 12}, "that 8 divides"),
        (Qwen3Moe, {"first_dense_layers": 3}, "first_dense_layers 3 leaves none of 3 layers"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, table, said):
    with pytest.raises(ValueError, match=said):
        kind(**(EXPERTS if kind is Qwen3Moe else SMALL) | table)


def test_feed_forward_is_eight_thirds_to_the_next_64():
    assert Llama(hidden_size=192, num_layers=1, num_heads=4).feed_forward == 512
    assert Llama(hidden_size=32, num_layers=1, num_heads=4).feed_forward == 128


def test_a_table_names_its_family_and_gets_its_keys_alone():
    read = TypeAdapter(AnyShape).validate_python
    assert isinstance(read(SMALL), Llama)
    assert isinstance(read(EXPERTS | {"kind": "qwen3_moe"}), Qwen3Moe)
    with pytest.raises(ValueError, match="unknown key"):
        read(EXPERTS)
    with pytest.raises(ValueError, match="expected tags"):
        read(SMALL | {"kind": "lama"})
