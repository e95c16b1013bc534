"""Takes shapes, proves what is built of them: parameters counted, seeds obeyed, mistakes refused."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.checkpoint import num_parameters
from raylm.model.shape import Shape

TOKENS = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 4}


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"kind": "qwen3"},
        {"num_kv_heads": 2},
        {"tie_embeddings": False},
        {"kind": "qwen3", "intermediate_size": 48},
    ],
)
def test_parameters_are_counted_without_building(table):
    shape = Shape(**SMALL | table)
    assert shape.num_parameters(70) == num_parameters(shape.build(TOKENS, 0))


def test_the_seed_alone_decides_the_weights():
    first, again, other = (Shape(**SMALL).build(TOKENS, seed).state_dict() for seed in (3, 3, 4))
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    assert any(not tensor.equal(other[name]) for name, tensor in first.items())
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_the_rows_say_vocabulary_and_special_tokens():
    config = Shape(**SMALL, max_length=99).build(TOKENS, 0).config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (70, 1, 2, 0)
    assert config.max_position_embeddings == 99
    with pytest.raises(ConfigError, match="nothing of eos_token_id"):
        Shape(**SMALL).build({name: value for name, value in TOKENS.items() if name != "eos_token_id"}, 0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_heads 4"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ],
)
def test_heads_that_do_not_divide_are_refused(table, said):
    with pytest.raises(ValueError, match=said):
        Shape(**SMALL | table)


def test_feed_forward_is_eight_thirds_to_the_next_64():
    assert Shape(hidden_size=192, num_layers=1, num_heads=4).feed_forward == 512
    assert Shape(hidden_size=32, num_layers=1, num_heads=4).feed_forward == 128
