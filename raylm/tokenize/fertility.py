"""Fertility by source: tokens per word, and bytes per token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Sums = dict[str, dict[str, int]]

OTHERS = "other sources"


def fertility(sources: Sequence[str], texts: Sequence[str], offsets: np.ndarray, most: int = 200) -> Sums:
    """Counts of documents, words (parted by white space), bytes (UTF-8) and tokens of each source; they add up over shards.

    Args:
        sources, texts: of T documents.
        offsets: int64[T+1], as an `Encoder` gives them: document t has offsets[t+1] - offsets[t] tokens.
        most: sources with a line of their own, those with most tokens, the rest under `other sources`: where every document
            is a file, all shards' sources would not fit in one memory.
    """
    sums: Sums = {}
    for source, text, tokens in zip(sources, texts, (offsets[1:] - offsets[:-1]).tolist(), strict=True):
        of = sums.setdefault(source, {"documents": 0, "words": 0, "bytes": 0, "tokens": 0})
        of["documents"] += 1
        of["words"] += len(text.split())
        of["bytes"] += len(text) if text.isascii() else len(text.encode())
        of["tokens"] += tokens
    return _largest(sums, most)


def rates(found: Iterable[Sums], most: int = 50) -> dict[str, dict[str, float]]:
    """Sums of all shards with tokens_per_word and bytes_per_token (0.0 where there is nothing to divide by).

    Args:
        most: sources that are listed, those with most tokens; the rest stands under `other sources`, all under `all`.
    """
    total: Sums = {}
    for sums in found:
        for source, counts in sums.items():
            _add(total, source, counts)
    listed: Sums = {}
    for counts in total.values():
        _add(listed, "all", counts)
    listed |= _largest(total, most)
    return {
        source: {
            **counts,
            "tokens_per_word": round(counts["tokens"] / counts["words"], 4) if counts["words"] else 0.0,
            "bytes_per_token": round(counts["bytes"] / counts["tokens"], 4) if counts["tokens"] else 0.0,
        }
        for source, counts in listed.items()
    }


def _largest(sums: Sums, most: int) -> Sums:
    """The sources with most tokens, largest first, and `other sources` behind them."""
    ranked = sorted(sums.keys() - {OTHERS}, key=lambda source: (-sums[source]["tokens"], source))
    kept = {source: sums[source] for source in ranked[:most]}
    for source in [*ranked[most:], *(sums.keys() & {OTHERS})]:
        _add(kept, OTHERS, sums[source])
    return kept


def _add(sums: Sums, source: str, counts: dict[str, int]) -> None:
    of = sums.setdefault(source, dict.fromkeys(counts, 0))
    for name, count in counts.items():
        of[name] += count
