"""Qwen2 shapes: biases of queries, keys and values are counted and built."""

from __future__ import annotations

import pytest

from raylm.model.shapes.qwen2 import Qwen2
from tests.model.shapes.built import SMALL, counted


@pytest.mark.parametrize("table", [{}, {"num_kv_heads": 2}, {"tie_embeddings": False}, {"intermediate_size": 48}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(Qwen2(**SMALL | table))


def test_known_sizes():
    # https://huggingface.co/Qwen/Qwen2.5-0.5B: 494,032,768 weights
    small = Qwen2(hidden_size=896, num_layers=24, num_heads=14, num_kv_heads=2, intermediate_size=4864)
    assert small.num_parameters(151_936) == 494_032_768


def test_queries_keys_and_values_have_biases():
    attention = counted(Qwen2(**SMALL)).model.layers[0].self_attn
    assert all(layer.bias is not None for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    assert attention.o_proj.bias is None
