"""Llama shapes: they are counted and built as written."""

from __future__ import annotations

import pytest

from raylm.model.shapes.llama import Llama
from tests.model.shapes.built import SMALL, counted


@pytest.mark.parametrize("table", [{}, {"num_kv_heads": 2}, {"tie_embeddings": False}, {"intermediate_size": 48}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(Llama(**SMALL | table))


def test_known_sizes():
    # https://huggingface.co/meta-llama/Meta-Llama-3-8B: 8,030,261,248 weights
    large = Llama(hidden_size=4096, num_layers=32, num_heads=32, num_kv_heads=8, intermediate_size=14336, tie_embeddings=False)
    assert large.num_parameters(128_256) == large.num_active_parameters(128_256) == 8_030_261_248
