"""The `extend` trainer: appends merges to a BPE tokenizer; existing tokens keep their ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, Refers
from raylm.core.errors import DataError
from raylm.tokenize.trainers.pattern import Pattern

if TYPE_CHECKING:
    from raylm.tokenize.trainers.counts import Counted
    from raylm.tokenize.trainers.merges import Words

TokenizerRef = Annotated[str, Refers(("Tokens", "Dialogues", "Pairs", "Unpaired", "Labelled", "Prompts", "Checkpoint"))]

_FILE = "tokenizer.json"


class Extend(Config):
    """A byte-level BPE tokenizer with tokens for a new domain or language. Merges are added behind the old ones, so that
    text is first merged as before; nothing is taken away. The model needs as many new rows of embeddings.
    """

    kind: Literal["extend"] = "extend"
    base: TokenizerRef
    """The tokenizer: a stage, a Hugging Face folder or hub name."""
    vocab_size_added: int | None = Field(default=None, ge=1)
    """New tokens at most, learned from the train split."""
    words: list[str] | None = None
    """Words that become one token each, alone and behind a space; the pieces on the way to them are new tokens, too."""
    min_count: int = Field(default=2, ge=1)
    """Occurrences that a pair needs to be merged."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Most text that is looked at, an equal part from the beginning of every shard; absent: all of it."""
    max_words: int = Field(default=1_000_000, ge=1)
    """Distinct pre-tokens that are trained on, the most frequent ones."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Extend:
        if (self.vocab_size_added is None) == (not self.words):
            raise ValueError("give either vocab_size_added or words")
        return self

    def pre_tokenization(self, at: Path) -> Pattern | None:
        """The pre-tokenization pattern of the base in the folder `at`; None when nothing is to be counted.

        Raises:
            DataError: it is no byte-level BPE tokenizer, or its pattern is neither gpt2 nor gpt4.
        """
        from raylm.tokenize.trainers.pattern import recognize

        backend = _backend(at)
        found = recognize(backend)
        if found is None or json.loads(backend.to_str())["model"]["type"] != "BPE":
            raise DataError(
                "only a byte-level BPE tokenizer that splits text as GPT-2 or GPT-4 can be extended",
                where=self.base,
                next="take another base, or train a tokenizer",
            )
        return found if self.words is None else None

    def train(self, counted: Counted | None, at: Path) -> None:
        """Extend the tokenizer in the folder `at`. The same base and counts give the same files."""
        from raylm.tokenize.trainers.merges import learn

        backend = _backend(at)
        plain = json.loads(backend.to_str())
        vocab = plain["model"]["vocab"]
        taken = [*vocab.values(), *(token["id"] for token in plain["added_tokens"])]
        tokens = [""] * (max(taken) + 1)
        for token, id in vocab.items():
            tokens[id] = token
        size = len(tokens)
        if counted is None:
            words, most, min_count = self._given(backend), 1 << 31, 1
        else:
            from raylm.tokenize.trainers.spelling import spell

            words = _encoded(backend, spell(counted), counted.counts.to_numpy())
            most, min_count = size + (self.vocab_size_added or 0), self.min_count
        merges = learn(words, tokens, most, min_count)
        vocab.update({tokens[id]: id for id in range(size, len(tokens))})
        old = {tuple(merge) for merge in plain["model"]["merges"]}
        new = [[tokens[left], tokens[right]] for left, right in merges]
        plain["model"]["merges"] += [merge for merge in new if tuple(merge) not in old]
        (at / _FILE).write_text(json.dumps(plain, ensure_ascii=False, indent=2) + "\n")

    def _given(self, backend: Any) -> Words:
        """The words of the job, alone and behind a space, each counted once."""
        import numpy as np

        spelled = []
        for word in self.words or ():
            cuts = [[part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)] for text in (word, f" {word}")]
            if len(cuts[0]) != 1:
                raise DataError(
                    f"{word!r} cannot be one token: the tokenizer splits it into {len(cuts[0])} pre-tokens", where=self.base
                )
            spelled += [cut[0] for cut in cuts if len(cut) == 1]
        return _encoded(backend, spelled, np.ones(len(spelled), np.int64))


def _encoded(backend: Any, spelled: list[str], counts: Any) -> Words:
    """Pre-tokens as the base encodes them."""
    from itertools import chain

    import numpy as np

    from raylm.tokenize.trainers.merges import Words

    rows = [[token.id for token in backend.model.tokenize(word)] for word in spelled]
    flat = np.fromiter(chain.from_iterable(rows), np.int32)
    return Words(flat, np.cumsum([0, *map(len, rows)]), counts)


def _backend(at: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(at / _FILE))
