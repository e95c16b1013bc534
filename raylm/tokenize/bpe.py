"""Takes texts, leaves a byte-level BPE tokenizer with a chat template, in transformers' folder layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from raylm.core.config import Config

PAD, BOS, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"

# {% generation %} marks what the assistant says, its end token included: transformers makes the loss mask of it
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% elif message['role'] in ['user', 'system'] %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% else %}"
    "{{ raise_exception('no such role: ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Bpe(Config):
    """A byte-level BPE tokenizer, trained on the train split: it can spell any text and has no unknown token."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=2048, ge=300)
    """Entries at most: 6 special tokens, 256 bytes, and merges."""
    sample_bytes: int = Field(default=64 << 20, gt=0)
    """Most text that is looked at; every shard of the documents gives an equal part."""

    def train(self, texts: Iterable[str], at: Path) -> None:
        """Train and save. The same texts in the same order give the same files."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        # GPT-2's pattern: words with their leading space, numbers, punctuation
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[PAD, BOS, END, USER, ASSISTANT, SYSTEM],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(texts, trainer)
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=BOS,
            eos_token=END,
            pad_token=PAD,
            extra_special_tokens=[USER, ASSISTANT, SYSTEM],
            clean_up_tokenization_spaces=False,
        )
        wrapped.chat_template = CHAT_TEMPLATE
        wrapped.save_pretrained(str(at))
