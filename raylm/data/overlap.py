"""Runs of words that two texts share: how much of an item stands in other documents.

Items are few and documents are many: the runs of the items are held, documents are read one by one. A hit is proved word by word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"\w+")
_BASE = 0x9E3779B97F4A7C15
LEAST = 5
"""Words of an item, below which nothing can be said."""


def words(text: str) -> list[str]:
    """The words of a text, in small letters: marks, spaces and case make no difference."""
    return _WORD.findall(text.casefold())


class Overlap:
    """The runs of `n` words of some items; an item with fewer words is one run.

    Args:
        texts: the items.
        n: words of a run (13: https://arxiv.org/abs/2005.14165).
        boilerplate: a run that is in a larger share of the items, and in more than two of them, is their form and no evidence.
    """

    def __init__(self, texts: Sequence[str], n: int = 13, boilerplate: float = 0.1) -> None:
        runs: dict[tuple[str, ...], dict[int, list[int]]] = defaultdict(dict)
        for item, text in enumerate(texts):
            found = words(text)
            size = min(n, len(found))
            for at in range(len(found) - size + 1) if size >= LEAST else ():
                runs[tuple(found[at : at + size])].setdefault(item, []).append(at)
        most = max(boilerplate * len(texts), 2)
        self._runs = {run: items for run, items in runs.items() if len(items) <= most}
        self.sizes = [0] * len(texts)
        """Runs of each item; 0 for one of which nothing can be said."""
        for items in self._runs.values():
            for item, places in items.items():
                self.sizes[item] += len(places)
        self._hashes = _by_length(self._runs)

    def found(self, text: str) -> dict[int, set[int]]:
        """Items that share runs with a document: item -> places of the runs in it."""
        import numpy as np

        document = words(text)
        codes = np.fromiter(map(hash, document), np.int64, len(document)).view(np.uint64)
        hits: dict[int, set[int]] = defaultdict(set)
        for size, known in self._hashes.items():
            if len(document) < size:
                continue
            for at in np.flatnonzero(np.isin(_rolled(codes, size), known)).tolist():
                for item, places in self._runs.get(tuple(document[at : at + size]), {}).items():
                    hits[item].update(places)
        return hits


def _by_length(runs: dict[tuple[str, ...], Any]) -> dict[int, Any]:
    """Hashes of the runs, uint64, by their number of words."""
    import numpy as np

    alike: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for run in runs:
        alike[len(run)].append(run)
    found = {}
    for size, some in alike.items():
        codes = np.array([list(map(hash, run)) for run in some], dtype=np.int64).view(np.uint64)
        found[size] = np.concatenate([_rolled(row, size) for row in codes])
    return found


def _rolled(codes: Any, size: int) -> Any:
    """Hash of each run of `size` words, uint64."""
    import numpy as np

    count = len(codes) - size + 1
    made, base = np.zeros(count, dtype=np.uint64), np.uint64(_BASE)
    for at in range(size):
        made = made * base + codes[at : at + count]
    return made
