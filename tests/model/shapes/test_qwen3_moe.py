"""Qwen3 shapes with experts: they are counted, with all experts and with those a token meets."""

from __future__ import annotations

import pytest

from raylm.model.shapes.qwen3_moe import Qwen3Moe
from tests.model.shapes.built import EXPERTS, counted


@pytest.mark.parametrize("table", [{}, {"num_kv_heads": 2, "first_dense_layers": 1}, {"tie_embeddings": False}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(Qwen3Moe(**EXPERTS | table))


def test_a_token_meets_two_of_eight_experts():
    shape = Qwen3Moe(**EXPERTS)
    model = counted(shape)
    unseen = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name) * 6 // 8
    assert shape.num_active_parameters(70) == shape.num_parameters(70) - unseen


def test_known_sizes():
    # https://huggingface.co/Qwen/Qwen3-30B-A3B: 30.5 B weights, 3.3 B of them active; its heads are wider than hidden / heads
    shape = Qwen3Moe(
        hidden_size=4096, num_layers=2, num_heads=32, num_experts=128, experts_per_token=8, expert_size=768, tie_embeddings=False
    )
    one = 3 * 4096 * 768
    assert shape.num_parameters(10) - shape.num_active_parameters(10) == 2 * 120 * one


def test_the_lowest_layers_may_be_dense():
    layers = counted(Qwen3Moe(**EXPERTS | {"first_dense_layers": 2})).model.layers
    assert [hasattr(layer.mlp, "experts") for layer in layers] == [False, False, True]
