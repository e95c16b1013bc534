"""Takes the parts of evaluation items, leaves an index that finds runs of their words in documents.

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
    """A question or an answer."""

    where: str
    name: str
    words: tuple[str, ...]


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
        at = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), len(self.hashes) - 1)
        here = self.hashes[at] == hashes[maybe]
        return maybe[here].tolist(), at[here].tolist()


class Index:
    """Finds parts in documents. A part of fewer than `ngram` words is one run: all of it.

    Hashes are of this process alone (Python's own, which differ from process to process): an index does not travel.
    """

    def __init__(self, parts: Sequence[Part], ngram: int) -> None:
        self._parts = parts
        by_length: dict[int, list[int]] = {}
        for number, part in enumerate(parts):
            by_length.setdefault(min(len(part.words), ngram), []).append(number)
        self._runs = {length: self._runs_of(numbers, length) for length, numbers in sorted(by_length.items())}

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
        shares = {number: self.share(number, starts, ngram) for number, starts in found.items()}
        number = min(shares, key=lambda number: (-shares[number], -len(found[number]), number))
        part = self._parts[number]
        return Match(part, shares[number], " ".join(_longest(part.words, found[number], min(len(part.words), ngram))))

    def share(self, number: int, starts: set[int], ngram: int) -> float:
        """Share of a part's runs."""
        return len(starts) / max(len(self._parts[number].words) - ngram + 1, 1)

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
            made = _hashes(*_sums(self._parts[number].words), length)
            hashes.append(made)
            parts.append(np.full(len(made), number, dtype=np.int32))
            starts.append(np.arange(len(made), dtype=np.int32))
        flat = np.concatenate(hashes)
        order = np.argsort(flat, kind="stable")
        # eight places for each run and more: one word in eight, at most, is looked up for nothing
        bits = np.zeros(1 << max(16, int(len(flat) * 8 - 1).bit_length()), dtype=bool)
        bits[flat & np.uint64(len(bits) - 1)] = True
        return _Runs(flat[order], np.concatenate(parts)[order], np.concatenate(starts)[order], bits)


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
