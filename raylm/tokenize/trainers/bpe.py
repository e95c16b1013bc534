"""The `bpe` trainer: a byte-level BPE tokenizer from counts of pre-tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.tokenize.trainers.pattern import Pattern, PatternName

if TYPE_CHECKING:
    from raylm.tokenize.trainers.counts import Counted


class Bpe(Config):
    """A byte-level BPE tokenizer, trained on the train split: it can spell any text and has no unknown token.

    The merges are those of Hugging Face's BpeTrainer on the same text.
    """

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=2048, ge=300)
    """Entries at most: 6 special tokens, 256 bytes, and merges."""
    pattern: PatternName = "gpt2"
    """How text is split before it is merged: gpt2 or gpt4 (as Llama 3; contractions in any case, line breaks apart)."""
    digits: Literal[1, 3] | None = None
    """Most digits in one token: 1 splits numbers into digits, 3 into groups; absent: gpt2 any length, gpt4 3.

    The fast encoder knows gpt4 with 1 and 3, and gpt2 without `digits`."""
    min_count: int = Field(default=2, ge=1)
    """Occurrences that a pair needs to be merged."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Most text that is looked at, an equal part from the beginning of every shard; absent: all of it."""
    max_words: int = Field(default=5_000_000, ge=1)
    """Distinct pre-tokens that are trained on, the most frequent ones; about 400 bytes of memory each."""

    def pre_tokenization(self, at: Path) -> Pattern:
        """The pattern that splits text into the pre-tokens that are counted."""
        return Pattern.of(self.pattern, self.digits)

    def train(self, counted: Counted, at: Path) -> None:
        """Train and save in the folder `at`. The same counts give the same files."""
        from tokenizers import models

        from raylm.tokenize.trainers.layout import save
        from raylm.tokenize.trainers.merges import learn
        from raylm.tokenize.trainers.spelling import byte_level, byte_tokens, byte_words

        tokens = byte_tokens()
        merges = learn(byte_words(counted), tokens, self.vocab_size, self.min_count)
        model = models.BPE(
            vocab={token: id for id, token in enumerate(tokens)},
            merges=[(tokens[left], tokens[right]) for left, right in merges],
        )
        save(byte_level(model, self.pre_tokenization(at)), at)
