"""Leak detection: models whose tokens see what they must not are found."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from raylm.core.errors import ConfigError
from raylm.model.leaks import check_causal, check_documents, check_padding

SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip


def model_of(kind, **fields):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **fields})).train()


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "gpt2", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_attend_keep_documents_apart(kind, dtype):
    model = model_of(kind, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, sliding_window=4).to(dtype)
    check_documents(model, "document_mask")
    check_causal(model)
    assert model.training, "the model is left as it was"


def test_layers_that_pass_no_boundaries_on_are_found():
    """Nemotron's layers hand their attention no keyword of others."""
    with pytest.raises(ConfigError, match=r"document_mask cannot keep documents apart.*a token sees other documents"):
        check_documents(model_of("nemotron"), "document_mask")


def test_layers_that_mix_tokens_without_attention_are_found():
    """Those of every second layer alone, and weakly: a convolution over neighbours beside attention."""
    model = model_of("llama")
    mlp = model.model.layers[1].mlp
    forward = mlp.forward
    mlp.forward = lambda x: forward(x + 0.01 * x.roll(1, 1))
    with pytest.raises(ConfigError, match=r"mesh.context cannot keep documents apart.*a token sees other documents"):
        check_documents(model, "mesh.context")


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_models_without_attention_are_refused(kind):
    model = model_of(kind, attention_hidden_size=32, rescale_every=0)
    check_causal(model)
    with pytest.raises(ConfigError, match="its attention cannot be exchanged"):
        check_documents(model, "document_mask")


def test_an_encoder_is_no_causal_model():
    with pytest.raises(ConfigError, match=r"sees those that follow it.*\n.*masked_lm"):
        check_causal(model_of("bert"))
    check_causal(model_of("bert", is_decoder=True))


def test_weights_that_a_forward_pass_changes_are_found():
    with pytest.raises(ConfigError, match=r"changes its own weights.*\n.*rescale_every = 0"):
        check_causal(model_of("rwkv", attention_hidden_size=32, rescale_every=1))


def test_encoders_that_see_their_padding_are_found():
    """FNet mixes all tokens of a rectangle and knows no mask."""
    for kind, fails in (("bert", False), ("fnet", True)):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **SMALL))
        if not fails:
            check_padding(model)
            continue
        with pytest.raises(ConfigError, match="FNetForMaskedLM sees the padding of a row"):
            check_padding(model)
