"""The `word_list` score: how many entries of a list occur in each document, and the share of its words they cover."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.prepare.lists import absolute, lines_of
from raylm.prepare.words import words_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class WordList(Config):
    """Counts entries of a list (toxic words, a topic's terms): whole words, upper and lower case alike.

    Columns: `<name>_count` (int32, entries found) and `<name>_share` (float32, words they cover over all words). C4's rule
    for bad words is a filter `between` with `<name>_count` at most 0.
    """

    kind: Literal["word_list"] = "word_list"
    name: str = Field(default="words", pattern=r"^[a-z][a-z0-9_]*$")
    """What the columns are called."""
    path: str | None = None
    """File or URI of the list, plain or .gz: an entry a line, of one word or more; `#` begins a remark."""
    words: list[str] = []
    """More entries."""

    @model_validator(mode="after")
    def _has_a_list(self) -> WordList:
        if self.path is None and not self.words:
            raise ValueError("needs `path` or `words`")
        return self

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return f"{self.name}_count", f"{self.name}_share"

    def placed(self, open: Any) -> WordList:
        """This card with a path that does not depend on the worker's folder."""
        return self.model_copy(update={"path": self.path and absolute(self.path)})

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """Of entries that overlap the one that begins first counts, of those that begin alike the longest."""
        import numpy as np

        entries = _entries(self.path, tuple(self.words))
        counted = [_count(text, entries) for text in table["text"].to_pylist()]
        count, share = self.columns()
        return {
            count: np.array([entry for entry, _ in counted], dtype=np.int32),
            share: np.array([covered for _, covered in counted], dtype=np.float32),
        }


class _Entries(NamedTuple):
    firsts: frozenset[str]
    phrases: dict[str, list[tuple[str, ...]]]
    """By first word, longest first; a single word is a phrase of one."""


@lru_cache(maxsize=8)
def _entries(path: str | None, words: tuple[str, ...]) -> _Entries:
    """Read once in a process."""
    phrases: dict[str, set[tuple[str, ...]]] = {}
    for entry in (*(lines_of(path) if path else ()), *words):
        if signs := tuple(words_of(entry)):
            phrases.setdefault(signs[0], set()).add(signs)
    if not phrases:
        raise ConfigError("the word list has no word", where=path or "word_list.words")
    ordered = {first: sorted(tails, key=lambda tail: (-len(tail), tail)) for first, tails in phrases.items()}
    return _Entries(frozenset(phrases), ordered)


def _count(text: str, entries: _Entries) -> tuple[int, float]:
    words = words_of(text)
    if entries.firsts.isdisjoint(words):
        return 0, 0.0
    count = covered = at = 0
    while at < len(words):
        phrases = entries.phrases.get(words[at], ())
        size = next((len(phrase) for phrase in phrases if tuple(words[at : at + len(phrase)]) == phrase), 0)
        count += size > 0
        covered += size
        at += size or 1
    return count, covered / len(words)
