"""Model specs from config.json: counts for networks that raylm does not build itself."""

from __future__ import annotations

import pytest
from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

from raylm.core.errors import ConfigError
from raylm.model.checkpoint import num_parameters
from raylm.model.model_spec import model_spec

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 50}


def test_heads_wider_than_the_stream_and_experts_in_every_second_layer():
    config = Qwen3MoeConfig(
        **SIZES, num_key_value_heads=2, head_dim=12, decoder_sparse_step=2, num_experts=4, moe_intermediate_size=8
    )
    assert model_spec(config.to_dict()).num_parameters() == num_parameters(Qwen3MoeForCausalLM(config))


def test_mistral_is_counted_like_llama():
    config = MistralConfig(**SIZES, num_key_value_heads=2)
    assert model_spec(config.to_dict()).num_parameters() == num_parameters(MistralForCausalLM(config))


def test_unknown_families_are_refused():
    with pytest.raises(ConfigError, match="model_type 'mamba' are not known"):
        model_spec({"model_type": "mamba"})
