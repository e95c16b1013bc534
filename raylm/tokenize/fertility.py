"""Takes texts and their tokens, leaves how many tokens a word costs and how many bytes a token holds, by source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Sums = dict[str, dict[str, int]]


def fertility(sources: Sequence[str], texts: Sequence[str], offsets: np.ndarray) -> Sums:
    """Counts of documents, words (parted by white space), bytes (UTF-8) and tokens of each source; they add up over shards.

    Args:
        sources, texts: of T documents.
        offsets: int64[T+1], as an `Encoder` gives them: document t has offsets[t+1] - offsets[t] tokens.
    """
    sums: Sums = {}
    for source, text, tokens in zip(sources, texts, (offsets[1:] - offsets[:-1]).tolist(), strict=True):
        of = sums.setdefault(source, {"documents": 0, "words": 0, "bytes": 0, "tokens": 0})
        of["documents"] += 1
        of["words"] += len(text.split())
        of["bytes"] += len(text) if text.isascii() else len(text.encode())
        of["tokens"] += tokens
    return sums


def rates(found: Iterable[Sums], most: int = 50) -> dict[str, dict[str, float]]:
    """Sums of all shards with tokens_per_word and bytes_per_token (0.0 where there is nothing to divide by).

    Args:
        most: sources that are listed, those with most tokens; the rest stands under `other sources`, all under `all`.
    """
    total: Sums = {}
    for sums in found:
        for source, counts in sums.items():
            _add(total, source, counts)
    ranked = sorted(total, key=lambda source: (-total[source]["tokens"], source))
    listed: Sums = {}
    for counts in total.values():
        _add(listed, "all", counts)
    for at, source in enumerate(ranked):
        _add(listed, source if at < most else "other sources", total[source])
    return {
        source: {
            **counts,
            "tokens_per_word": round(counts["tokens"] / counts["words"], 4) if counts["words"] else 0.0,
            "bytes_per_token": round(counts["bytes"] / counts["tokens"], 4) if counts["tokens"] else 0.0,
        }
        for source, counts in listed.items()
    }


def _add(sums: Sums, source: str, counts: dict[str, int]) -> None:
    of = sums.setdefault(source, dict.fromkeys(counts, 0))
    for name, count in counts.items():
        of[name] += count
