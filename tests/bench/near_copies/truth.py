"""Takes documents and which of them a tool kept, leaves how right it was: exact similarities, by an index of all 5-grams."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from raylm.prepare.dedup.fuzzy.words import Fold, shingle_sets

# a pair at least this similar should not stay whole; a document less similar than that to all that stayed should
FOUND, FALSE = 0.8, 0.6


class Truth:
    """Exact word-5-gram similarities of the documents of `making.documents`.

    The 5-grams are those of raylm's kernel, which a test holds against a reading of the same rules in plain Python.
    """

    def __init__(self, made: list[tuple[str, int]]) -> None:
        texts = pa.chunked_array([pa.array([text for text, _ in made], pa.large_string())])
        self.ends, self.values = shingle_sets(texts, 5, Fold(numbers=True, operators=True))
        self.sizes = np.diff(self.ends)
        families: dict[int, list[int]] = {}
        for at, (_, family) in enumerate(made):
            if family >= 0:
                families.setdefault(family, []).append(at)
        pairs = np.array([pair for rows in families.values() for pair in combinations(rows, 2)])
        self.pairs, self.similar = pairs, np.array([self.jaccard(one, other) for one, other in pairs])

    def jaccard(self, one: int, other: int) -> float:
        """Similarity of two documents."""
        shared = len(np.intersect1d(self._set(one), self._set(other), assume_unique=True))
        return shared / max(self.sizes[one] + self.sizes[other] - shared, 1)

    def _set(self, at: int) -> np.ndarray:
        return self.values[self.ends[at] : self.ends[at + 1]]

    def quality(self, kept: set[int]) -> dict[str, Any]:
        """recall: share of pairs of 0.8 and more that did not both stay; false: documents that went although none that
        stayed has 0.6."""
        stays = np.zeros(len(self.sizes), bool)
        stays[sorted(kept)] = True
        true = self.pairs[self.similar >= FOUND]
        found = ~stays[true].all(axis=1)
        return {"recall": round(float(found.mean()), 4), "false": self._false(stays), "kept": int(stays.sum())}

    def _false(self, stays: np.ndarray) -> int:
        best = np.zeros(len(stays))
        for side in (0, 1):
            here, there = self.pairs[:, side], self.pairs[:, 1 - side]
            np.maximum.at(best, here[stays[there]], self.similar[stays[there]])
        doubtful = np.flatnonzero(~stays & (best < FALSE))
        if not len(doubtful):
            return 0
        # the others are not of its family: every document that stayed is looked up by its 5-grams
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        there = stays[owners]
        order = np.argsort(self.values[there])
        shingles, owners = self.values[there][order], owners[there][order]
        return sum(self._most(at, shingles, owners) < FALSE for at in doubtful)

    def _most(self, at: int, shingles: np.ndarray, owners: np.ndarray) -> float:
        mine = self._set(at)
        starts, ends = np.searchsorted(shingles, mine), np.searchsorted(shingles, mine, side="right")
        met = [owners[start:end] for start, end in zip(starts, ends, strict=True) if end > start]
        if not met:
            return 0.0
        others, shared = np.unique(np.concatenate(met), return_counts=True)
        return float((shared / (self.sizes[others] + self.sizes[at] - shared)).max())
