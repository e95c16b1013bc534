"""A tiny Llama with a byte-level BPE tokenizer and a chat template, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]

# one turn is `<|role|>text<|end|>`; the model's turn is opened by its role and closed by <|end|>
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(vocab: int = 512) -> Any:
    """A byte-level BPE tokenizer trained on Python's own help texts, which lie on every machine."""
    import pydoc_data.topics as help_texts

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(list(help_texts.topics.values())[:20], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        additional_special_tokens=SPECIAL[3:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(*, vocab: int, hidden: int = 64, layers: int = 2, seed: int = 0, max_len: int = 512) -> Any:
    """A random fp32 Llama whose weights are large enough that its greedy choices are no near-ties."""
    import torch
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=hidden * 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=max_len,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(3)
    return model


def tiny_checkpoint(
    folder: str | Path, *, hidden: int = 64, layers: int = 2, vocab: int = 512, seed: int = 0, max_len: int = 512
) -> Path:
    """Write a checkpoint in Hugging Face's layout (fp32) and return its folder. The same arguments give the same bytes."""
    tokenizer = tiny_tokenizer(vocab)
    model = tiny_model(vocab=len(tokenizer), hidden=hidden, layers=layers, seed=seed, max_len=max_len)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_composite(kind: str = "gemma3", seed: int = 0) -> Any:
    """A random fp32 model of 300 tokens with a vision tower beside its language model: `gemma3` or `llava`."""
    import torch
    import transformers

    text: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(seed)
    if kind == "gemma3":
        marks: dict[str, Any] = {"mm_tokens_per_image": 4, "boi_token_index": 4, "eoi_token_index": 5, "image_token_index": 3}
        config = transformers.Gemma3Config(text_config={**text, "sliding_window": 8}, vision_config=vision, **marks)
        return transformers.Gemma3ForConditionalGeneration(config).eval()
    tower: dict[str, Any] = {"model_type": "clip_vision_model", "projection_dim": 16, **vision}
    config = transformers.LlavaConfig(text_config={"model_type": "llama", **text}, vision_config=tower, image_token_index=3)
    return transformers.LlavaForConditionalGeneration(config).eval()
