"""Tiny random checkpoints of several families, in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
}


def small_checkpoint(folder: Path, family: str, dtype: str = "float32", **own: Any) -> Path:
    """Write random weights, norms and biases included, so that no two tensors are alike."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **OWN[family], **own})
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data.normal_(std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
