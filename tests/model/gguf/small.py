"""Tiny random checkpoints of several families with a self-trained tokenizer, whose greedy choices are no near-ties."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from raylm.tokenize.trainers.pattern import Pattern, byte_characters
from raylm.tokenize.trainers.spelling import byte_level
from tests.model.tiny import CHAT_TEMPLATE, SPECIAL, tiny_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 10_000.0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def config_of(kind: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    tokens = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        sizes: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
    else:
        sizes = {**SIZES, "tie_word_embeddings": kind != "qwen3"}
    if kind == "mistral":
        sizes["sliding_window"] = None
    if kind.endswith("_moe"):
        sizes |= EXPERTS | ({"norm_topk_prob": True} if kind == "qwen3_moe" else {"shared_expert_intermediate_size": 48})
    return AutoConfig.for_model(kind, **{**tokens, **sizes, **changes})


def checkpoint(folder: Path, kind: str, tokenizer: Any = None, **changes: Any) -> Path:
    """Write a random model of model_type `kind` to `folder`; the same arguments give the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_of(kind, **changes)).float()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        # biases and norms too: a file that leaves them out is another model
        spread = 0.3 if weight.dim() == 1 else 3 * 0.02 * (1 if "embed" in name or "wte" in name else 2)
        weight.data = weight.data.mean() * (weight.dim() == 1) + spread * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def gpt4_tokenizer() -> Any:
    """As `tiny_tokenizer`, but text is split as GPT-4 does; tokens hold punctuation with line breaks."""
    import pydoc_data.topics as help_texts

    from tokenizers import models, trainers
    from transformers import PreTrainedTokenizerFast

    core = byte_level(models.BPE(), Pattern("gpt4", 1))
    alphabet = list(byte_characters())
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(list(help_texts.topics.values())[:20], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        additional_special_tokens=SPECIAL[3:],
    )
    made.chat_template = CHAT_TEMPLATE
    return made


@cache
def small(kind: str) -> Path:
    """The same folder for all tests of a process."""
    return checkpoint(Path(mkdtemp(prefix="raylm-small-")) / kind, kind, gpt4_tokenizer() if kind == "qwen3" else None)
