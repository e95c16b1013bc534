"""Tiny models of several families to prune, and token rows to calibrate on."""

from __future__ import annotations

from typing import Any

import torch

from raylm.compress.calibration import Calibration

SHAPE: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": 120, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**SHAPE, "head_dim": 8}),
    "qwen2": ("Qwen2", {**SHAPE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 16}),
    "gemma3": (
        "Gemma3Text",
        {**SHAPE, "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "gpt2": ("GPT2", GPT2),
    "phi3": ("Phi3", SHAPE),
    "cohere": ("Cohere", SHAPE),
    "mixtral": ("Mixtral", {**SHAPE, "num_local_experts": 4, "head_dim": 8}),
}


def family(name: str, seed: int = 0, **more: Any) -> Any:
    """A random float32 model whose weights are large enough that all parts of it matter."""
    import transformers

    kind, fields = FAMILIES[name]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**{**fields, **more})).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(4)
    return model


def calibration(rows: int = 6, length: int = 24) -> Calibration:
    drawn = torch.Generator().manual_seed(1)
    return Calibration([torch.randint(3, 120, (length,), generator=drawn).tolist() for _ in range(rows)])


def logits(model: Any) -> torch.Tensor:
    """Of one row, [tokens, vocabulary]."""
    with torch.no_grad():
        return model(torch.arange(3, 35)[None] * 7 % 120, use_cache=False).logits[0].double()


def apart(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((left - right).abs().max() / left.abs().max())
