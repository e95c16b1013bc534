"""An index of evaluation items that finds runs of their words (n-gram overlap) in documents.

Words are hashed once; the hash of every run of k words comes from sums over all words before it, so each k costs two
operations a word. A table of bits lets nearly all runs go; what is left is looked up, then compared word by word: a
collision of hashes decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raylm.prepare.words import words_of

# any odd number has an inverse modulo 2^64
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)


class Part(NamedTuple):
    """A question or an answer. Its first `shared` words are an instruction: only runs behind it are looked for, or, where
    less than a run is behind it, the last one."""

    where: str
    name: str
    words: tuple[str, ...]
    shared: int = 0


class Match(NamedTuple):
    """What a document shares with a part. `share`: of the part's runs; `text`: the longest stretch."""

    part: Part
    share: float
    text: str


class _Runs(NamedTuple):
    """All runs of one length, by hash."""

    hashes: np.ndarray
    parts: np.ndarray
    starts: np.ndarray
    bits: np.ndarray

    def places(self, hashes: np.ndarray) -> tuple[list[int], list[int]]:
        """(which of `hashes` are here, where the first run of each is)."""
        maybe = np.flatnonzero(self.bits[hashes & np.uint64(len(self.bits) - 1)])
        if not len(self.hashes):
            return [], []
        at = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), len(self.hashes) - 1)
        here = self.hashes[at] == hashes[maybe]
        return maybe[here].tolist(), at[here].tolist()


class Index:
    """Finds parts in documents. A part of fewer than `ngram` words is one run: all of it.

    A run that is in more than `max_item_share` of the different parts, and in more than two, is what the items have in
    common, and is not looked for.

    Hashes are of this process alone (Python's own, which differ from process to process): an index does not travel.
    """

    def __init__(self, parts: Sequence[Part], ngram: int, max_item_share: float = 1.0) -> None:
        self._parts = parts
        # items that say the same are one
        texts: dict[tuple[str, ...], int] = {}
        self._texts = np.array([texts.setdefault(part.words, len(texts)) for part in parts], dtype=np.int64)
        self._most = max(2, int(max_item_share * len(texts)))
        by_length: dict[int, list[int]] = {}
        for number, part in enumerate(parts):
            by_length.setdefault(min(len(part.words), ngram), []).append(number)
        self._runs = {length: self._runs_of(numbers, length) for length, numbers in sorted(by_length.items())}
        self._sizes = sum(
            (np.bincount(runs.parts, minlength=len(parts)) for runs in self._runs.values()), np.zeros(len(parts), int)
        )

    @property
    def num_common(self) -> int:
        """Parts of which nothing is looked for: all of it is in many others."""
        return int((self._sizes == 0).sum())

    def matches(self, texts: Sequence[str]) -> list[dict[int, set[int]]]:
        """Of every text the parts it shares runs with: {number of the part: where in the part the runs begin}."""
        words = [words_of(text) for text in texts]
        found: list[dict[int, set[int]]] = [{} for _ in texts]
        ends = np.cumsum([len(inner) for inner in words], dtype=np.int64)
        flat = [word for inner in words for word in inner]
        sums, powers = _sums(flat)
        for length, runs in self._runs.items():
            hashes = _hashes(sums, powers, length)
            for at, place in zip(*runs.places(hashes), strict=True):
                row = int(np.searchsorted(ends, at, side="right"))
                if at + length <= ends[row]:
                    self._compare(runs, place, flat[at : at + length], found[row])
        return found

    def best(self, found: dict[int, set[int]], ngram: int) -> Match:
        """The part of which a document holds the largest share; of equals the one with more runs, then the first."""
        shares = {number: self.share(number, starts) for number, starts in found.items()}
        number = min(shares, key=lambda number: (-shares[number], -len(found[number]), number))
        part = self._parts[number]
        return Match(part, shares[number], " ".join(_longest(part.words, found[number], min(len(part.words), ngram))))

    def share(self, number: int, starts: set[int]) -> float:
        """Share of a part's runs that are looked for."""
        return len(starts) / max(int(self._sizes[number]), 1)

    def _compare(self, runs: _Runs, place: int, words: list[str], found: dict[int, set[int]]) -> None:
        at, hashed = place, runs.hashes[place]
        while at < len(runs.hashes) and runs.hashes[at] == hashed:
            number, start = int(runs.parts[at]), int(runs.starts[at])
            if list(self._parts[number].words[start : start + len(words)]) == words:
                found.setdefault(number, set()).add(start)
            at += 1

    def _runs_of(self, numbers: list[int], length: int) -> _Runs:
        hashes, parts, starts = [], [], []
        for number in numbers:
            run_hashes = _hashes(*_sums(self._parts[number].words), length)
            first = min(self._parts[number].shared, len(run_hashes) - 1)
            hashes.append(run_hashes[first:])
            parts.append(np.full(len(run_hashes) - first, number, dtype=np.int32))
            starts.append(np.arange(first, len(run_hashes), dtype=np.int32))
        flat, owners, places = np.concatenate(hashes), np.concatenate(parts), np.concatenate(starts)
        order = np.argsort(flat, kind="stable")
        common = np.zeros(len(flat), dtype=bool)
        common[order] = self._is_common(flat[order], self._texts[owners[order]])
        common |= _beside(common, owners, length)
        order = order[~common[order]]
        # eight places for each run and more: one word in eight, at most, is looked up for nothing
        bits = np.zeros(1 << max(16, int(len(flat) * 8 - 1).bit_length()), dtype=bool)
        bits[flat & np.uint64(len(bits) - 1)] = True
        return _Runs(flat[order], owners[order], places[order], bits)

    def _is_common(self, hashes: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Which of the sorted hashes are in too many different texts."""
        order = np.lexsort((texts, hashes))
        held, of = hashes[order], texts[order]
        new = np.ones(len(held), dtype=bool)
        new[1:] = (held[1:] != held[:-1]) | (of[1:] != of[:-1])
        runs, inverse = np.unique(hashes, return_inverse=True)
        return np.bincount(np.searchsorted(runs, held[new]), minlength=len(runs))[inverse] > self._most


def _beside(common: np.ndarray, owners: np.ndarray, length: int) -> np.ndarray:
    """Runs of which more than half is in a common run beside them, unless nothing else of their part is left."""
    covered = np.zeros(len(common), dtype=bool)
    for number in np.unique(owners[common]):
        start, end = np.searchsorted(owners, [number, number + 1])
        reach = (length - 1) // 2
        near = np.convolve(common[start:end], np.ones(2 * reach + 1, dtype=int))[reach : reach + end - start] > 0
        if not near.all():
            covered[start:end] = near
    return covered


def _sums(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """S[i] = sum of hash(word j) * BASE^j over j < i, and BASE^-i, both modulo 2^64."""
    size = len(words)
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=size).view(np.uint64)
    sums = np.zeros(size + 1, dtype=np.uint64)
    np.cumsum(hashes * _powers(_BASE, size), out=sums[1:])
    return sums, _powers(_INVERSE, size)


def _hashes(sums: np.ndarray, powers: np.ndarray, length: int) -> np.ndarray:
    """Hash of the run of `length` words that begins at each word; the low bits are mixed, for they are used alone."""
    if len(powers) < length:
        return np.zeros(0, dtype=np.uint64)
    hashes = (sums[length:] - sums[:-length]) * powers[: len(powers) - length + 1]
    return hashes ^ (hashes >> np.uint64(32))


def _powers(base: int, size: int) -> np.ndarray:
    powers = np.full(size, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _longest(words: Sequence[str], starts: set[int], length: int) -> Sequence[str]:
    """The longest stretch of words that neighbouring runs cover."""
    best, begin, last = (0, 0), -1, -2
    for start in sorted(starts):
        begin = begin if start <= last + 1 else start
        last = start
        if last + length - begin > best[1] - best[0]:
            best = (begin, last + length)
    return words[best[0] : best[1]]
