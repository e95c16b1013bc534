"""DeepSeek-V3 shapes: latent attention and experts are counted and built as written."""

from __future__ import annotations

import pytest

from raylm.model.model_spec import model_spec
from raylm.model.shapes.deepseek_v3 import DeepseekV3
from tests.model.shapes.built import EXPERTS, counted

GROUPED = {"q_lora_rank": 12, "num_groups": 4, "groups_per_token": 2, "num_shared_experts": 2, "v_head_dim": 6}


@pytest.mark.parametrize("table", [{}, GROUPED, {"first_dense_layers": 0, "tie_embeddings": False}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(DeepseekV3(**EXPERTS | table))


def test_known_sizes():
    # https://arxiv.org/abs/2412.19437: 671 B weights, 37 B of them active
    shape = DeepseekV3(
        hidden_size=7168,
        num_layers=61,
        num_heads=128,
        intermediate_size=18432,
        num_experts=256,
        experts_per_token=8,
        expert_size=2048,
        first_dense_layers=3,
        num_groups=8,
        groups_per_token=4,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        tie_embeddings=False,
    )
    assert shape.num_parameters(129_280) == pytest.approx(671e9, rel=1e-3)
    assert shape.num_active_parameters(129_280) == pytest.approx(37e9, rel=2e-2)
    assert model_spec(shape.config({"vocab_size": 10})).attentions[0].qk_dim == 192


def test_defaults_follow_the_width_of_a_head():
    config = counted(DeepseekV3(**EXPERTS)).config
    assert (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim, config.kv_lora_rank) == (8, 4, 8, 32)
    assert config.q_lora_rank is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"num_groups": 3}, "does not fill num_groups 3"),
        ({"num_groups": 8}, "does not fill num_groups 8 with two"),
        ({"num_groups": 4, "experts_per_token": 3}, "groups_per_token 1 hold fewer than 3"),
        ({"num_kv_heads": 2}, "no meaning beside latent attention"),
    ],
)
def test_what_cannot_be_built_is_refused(table, said):
    with pytest.raises(ValueError, match=said):
        DeepseekV3(**EXPERTS | table)
