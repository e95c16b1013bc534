"""Qwen3 shapes: norms of queries and keys are counted and built."""

from __future__ import annotations

import pytest

from raylm.model.shapes.qwen3 import Qwen3
from tests.model.shapes.built import SMALL, counted


@pytest.mark.parametrize("table", [{}, {"num_kv_heads": 2}, {"tie_embeddings": False}, {"intermediate_size": 48}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(Qwen3(**SMALL | table))


def test_queries_and_keys_are_normed_by_head():
    attention = counted(Qwen3(**SMALL)).model.layers[0].self_attn
    assert attention.q_norm.weight.shape == attention.k_norm.weight.shape == (8,)
