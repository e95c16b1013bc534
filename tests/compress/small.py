"""A tiny checkpoint rounded by a card, and its logits beside those of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from raylm.compress.calibration import Calibration
from tests.model.tiny import tiny_model

ROWS = torch.stack([torch.arange(6 + 9 * row, 30 + 9 * row) for row in range(8)])


class Rounded(NamedTuple):
    """Logits are [rows, tokens, vocabulary]."""

    original: dict[str, torch.Tensor]
    stored: dict[str, torch.Tensor]
    logits: torch.Tensor
    rounded_logits: torch.Tensor

    def divergence(self) -> float:
        """Mean KL(original || rounded) per token, in nats."""
        left, right = self.logits.log_softmax(-1), self.rounded_logits.log_softmax(-1)
        return float((left.exp() * (left - right)).sum(-1).mean())

    def agreement(self) -> float:
        """Share of tokens whose likeliest successor is the same."""
        return float((self.logits.argmax(-1) == self.rounded_logits.argmax(-1)).float().mean())


def outliers() -> torch.nn.Module:
    """A model that computes what the tiny one does: four inputs of each block are 60 times as large, their weights as small."""
    model = tiny_model(vocab=300, layers=1).eval()
    block = model.model.layers[0]
    for norm, layers in (
        (block.input_layernorm, [getattr(block.self_attn, f"{each}_proj") for each in "qkv"]),
        (block.post_attention_layernorm, [block.mlp.gate_proj, block.mlp.up_proj]),
    ):
        norm.weight.data[3::16] *= 60
        for layer in layers:
            layer.weight.data[:, 3::16] /= 60
    return model


def rounded(card: Any, folder: Path) -> Rounded:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model, original = (tiny_model(vocab=300, layers=1).eval() for _ in range(2))
    compressor = card.apply(model, Calibration(list(ROWS))).compressor
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return Rounded(
            original.state_dict(), load_file(folder / "model.safetensors"), original(ROWS).logits, loaded(ROWS).logits.float()
        )
