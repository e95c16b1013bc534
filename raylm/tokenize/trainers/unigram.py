"""The `unigram` trainer: a byte-level Unigram tokenizer, which picks the most likely segmentation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.tokenize.trainers.pattern import Pattern, PatternName

if TYPE_CHECKING:
    import numpy as np

    from raylm.tokenize.trainers.counts import Counted
    from raylm.tokenize.trainers.lattice import Pieces

# as sentencepiece: pieces with a lower expected count are dropped at once, pruning leaves a tenth more than the target
_FEWEST, _MARGIN = 0.5, 1.1


class Unigram(Config):
    """A Unigram tokenizer (Kudo 2018, https://arxiv.org/abs/1804.10959) over bytes: no unknown token, any text comes back.

    The library's trainer is not used: its scores change from run to run. Ours begins with the pieces of BPE, and not with
    all frequent substrings, which bounds its memory; then expectation-maximization and pruning as in sentencepiece.
    """

    kind: Literal["unigram"] = "unigram"
    vocab_size: int = Field(default=2048, ge=300)
    """Entries at most: 6 special tokens, 256 bytes, and pieces."""
    pattern: PatternName = "gpt2"
    """How text is split before pieces are found in it: gpt2 or gpt4."""
    digits: Literal[1, 3] | None = None
    """Most digits in one token; absent: gpt2 any length, gpt4 3."""
    seeds: float = Field(default=4.0, ge=1.1)
    """Pieces to begin with, as a multiple of vocab_size."""
    keep: float = Field(default=0.75, gt=0, lt=1)
    """Share of pieces that each round of pruning leaves."""
    longest: int = Field(default=16, ge=2, le=64)
    """Bytes of the longest piece."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Most text that is looked at, an equal part from the beginning of every shard; absent: all of it."""
    max_words: int = Field(default=1_000_000, ge=1)
    """Distinct pre-tokens that are trained on, the most frequent ones."""

    def pre_tokenization(self, at: Path) -> Pattern:
        """The pattern that splits text into the pre-tokens that are counted."""
        return Pattern.of(self.pattern, self.digits)

    def train(self, counted: Counted, at: Path) -> None:
        """Train and save in the folder `at`. The same counts give the same files."""
        from tokenizers import models

        from raylm.tokenize.trainers.layout import SPECIALS, save
        from raylm.tokenize.trainers.pattern import byte_characters
        from raylm.tokenize.trainers.spelling import byte_level

        spelled = byte_characters()
        pieces = self._learn(counted)
        # no text is cut into a special token: a score that never wins
        scores = [(token, 2 * pieces[-1][1] - 1000) for token in SPECIALS]
        scores += [("".join(spelled[byte] for byte in piece), score) for piece, score in pieces]
        save(byte_level(models.Unigram(scores), self.pre_tokenization(at)), at)

    def _learn(self, counted: Counted) -> list[tuple[bytes, float]]:
        """Pieces and their scores, likeliest first."""
        import numpy as np

        from raylm.tokenize.trainers.layout import SPECIALS
        from raylm.tokenize.trainers.spelling import buffers

        wanted = self.vocab_size - len(SPECIALS)
        words = (*buffers(counted.words), counted.counts.to_numpy().astype(np.float64))
        pieces = self._seed(counted)
        while True:
            for _ in range(2):
                pieces = _maximize(pieces, words)
            if len(pieces) <= _MARGIN * wanted:
                break
            pieces = _prune(pieces, words, max(int(self.keep * len(pieces)), int(_MARGIN * wanted)))
        found = [*zip(_texts(pieces), pieces.scores.tolist(), strict=True)]
        found.sort(key=lambda piece: (-piece[1], piece[0]))
        singles = [piece for piece in found if len(piece[0]) == 1]
        kept = singles + [piece for piece in found if len(piece[0]) > 1][: wanted - len(singles)]
        return sorted(kept, key=lambda piece: (-piece[1], piece[0]))

    def _seed(self, counted: Counted) -> Pieces:
        """Bytes, and the tokens of BPE up to the longest, all with the same score."""
        import numpy as np

        from raylm.tokenize.trainers.lattice import Pieces
        from raylm.tokenize.trainers.layout import SPECIALS
        from raylm.tokenize.trainers.merges import learn
        from raylm.tokenize.trainers.pattern import byte_characters
        from raylm.tokenize.trainers.spelling import byte_tokens, byte_words

        tokens = byte_tokens()
        learn(byte_words(counted), tokens, int(self.seeds * self.vocab_size), 2)
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        pieces = [bytes(byte_of[character] for character in token) for token in tokens[len(SPECIALS) :]]
        pieces = [piece for piece in pieces if len(piece) <= self.longest]
        return Pieces(pieces, np.zeros(len(pieces)), self.longest)


def _maximize(pieces: Pieces, words: Any) -> Pieces:
    """One step of expectation-maximization; pieces that are hardly used go, bytes stay.

    With the digamma function in place of the logarithm, as in sentencepiece's trainer: it pulls rare pieces down.
    """
    import numpy as np

    from raylm.tokenize.trainers.lattice import Pieces

    expected = pieces.expect(*words)
    single = np.diff(pieces.bounds) == 1
    stay = single | (expected >= _FEWEST)
    expected = np.maximum(expected[stay], _FEWEST)
    scores = _digamma(expected) - _digamma(expected.sum(keepdims=True))
    texts = _texts(pieces)
    return Pieces([texts[at] for at in np.flatnonzero(stay).tolist()], scores, pieces.longest)


def _prune(pieces: Pieces, words: Any, size: int) -> Pieces:
    """The `size` pieces without which the likelihood of the text would fall most; bytes stay.

    Loss of a piece as in sentencepiece's trainer: its uses in the best segmentations go to its own best segmentation.
    """
    import numpy as np

    from raylm.tokenize.trainers.lattice import Pieces

    uses = pieces.best(words[0], words[1], words[2].astype(np.int64)).astype(np.float64)
    parts, bounds = pieces.without()
    total = uses.sum()
    losses = np.full(len(pieces), np.inf)
    for at in np.flatnonzero(np.diff(pieces.bounds) > 1).tolist():
        own, others = uses[at], parts[bounds[at] : bounds[at + 1]]
        if not own:
            losses[at] = -np.inf
            continue
        after = np.log(total + own * (len(others) - 1))
        change = np.log(own) - np.log(total) - float(np.sum(np.log(uses[others] + own) - after))
        losses[at] = own / total * change
    texts = _texts(pieces)
    order = sorted(range(len(pieces)), key=lambda at: (-losses[at], texts[at]))
    stay = sorted(order[:size])
    return Pieces([texts[at] for at in stay], pieces.scores[stay], pieces.longest)


def _texts(pieces: Pieces) -> list[bytes]:
    data, bounds = pieces.data.tobytes(), pieces.bounds.tolist()
    return [data[start:end] for start, end in pairwise(bounds)]


def _digamma(x: np.ndarray) -> np.ndarray:
    """Digamma of x > 0 by its asymptotic series, after shifting x above 7 (Abramowitz & Stegun 6.3.5, 6.3.18)."""
    import numpy as np

    x, shift = np.array(x, np.float64), np.zeros(len(x))
    while (low := x < 7).any():
        shift[low] -= 1 / x[low]
        x[low] += 1
    inverse = 1 / (x * x)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse * (1 / 240 - inverse / 132))))
    return shift + np.log(x) - 0.5 / x - series
