"""The `word_piece` trainer: a byte-level WordPiece tokenizer, which takes the longest piece from the left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.tokenize.trainers.pattern import Pattern, PatternName

if TYPE_CHECKING:
    from raylm.tokenize.trainers.counts import Counted

# begins every piece that goes on within a word. Not BERT's ##, which a text may spell: no byte is spelled with this one
TIE = "⁀"
# bytes: longest match from the left takes the square of a word's length
_LONGEST = 100


class WordPiece(Config):
    """A WordPiece tokenizer over bytes: no unknown token, white space is kept, any text comes back.

    Pieces are found as Hugging Face's WordPieceTrainer does: by merging the most frequent pair. Pre-tokens of more than
    100 bytes are cut into such parts.
    """

    kind: Literal["word_piece"] = "word_piece"
    vocab_size: int = Field(default=2048, ge=600)
    """Entries at most: 6 special tokens, 256 bytes at the beginning of a word, 256 within, and merged pieces."""
    pattern: PatternName = "gpt2"
    """How text is split before pieces are found in it: gpt2 or gpt4."""
    digits: Literal[1, 3] | None = None
    """Most digits in one token; absent: gpt2 any length, gpt4 3."""
    min_count: int = Field(default=2, ge=1)
    """Occurrences that a pair needs to be merged."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Most text that is looked at, an equal part from the beginning of every shard; absent: all of it."""
    max_words: int = Field(default=5_000_000, ge=1)
    """Distinct pre-tokens that are trained on, the most frequent ones."""

    def pre_tokenization(self, at: Path) -> Pattern:
        """The pattern that splits text into the pre-tokens that are counted."""
        return Pattern.of(self.pattern, self.digits)

    def train(self, counted: Counted, at: Path) -> None:
        """Train and save in the folder `at`. The same counts give the same files."""
        from tokenizers import Regex, decoders, models, pre_tokenizers

        from raylm.tokenize.trainers.layout import PAD, save
        from raylm.tokenize.trainers.merges import learn
        from raylm.tokenize.trainers.pattern import byte_characters
        from raylm.tokenize.trainers.spelling import byte_level, byte_tokens, byte_words

        words = byte_words(counted, _LONGEST)
        tokens = [*byte_tokens(), *(f"{TIE}{character}" for character in sorted(byte_characters()))]
        # within a word a byte has the later of its two ids
        words.symbols += len(byte_characters())
        words.symbols[words.starts] -= len(byte_characters())
        learn(words, tokens, self.vocab_size, self.min_count, join=lambda left, right: left + right.removeprefix(TIE))
        model = models.WordPiece(
            vocab={token: id for id, token in enumerate(tokens)},
            # must be a token, and never is one: every byte has a piece
            unk_token=PAD,
            continuing_subword_prefix=TIE,
            max_input_chars_per_word=_LONGEST,
        )
        tokenizer = byte_level(model, self.pre_tokenization(at))
        parts = pre_tokenizers.Split(Regex(f".{{1,{_LONGEST}}}"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, parts])
        tokenizer.decoder = decoders.Sequence([decoders.Replace(TIE, ""), decoders.ByteLevel()])
        save(tokenizer, at)
