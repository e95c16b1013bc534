"""MinHash signatures: the band keys of each text. Documents that share a key are candidates.

A document of similarity s to another shares at least one of b bands of r rows with it with probability 1 - (1 - s^r)^b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from raylm.prepare.dedup.fuzzy.words import (
    Fold,
    buffers,
    fold_table,
    mixed,
    multipliers,
    random_words,
    scratch,
    shingles_of,
    words_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

_AS_IT_IS = Fold()
_STEP = np.uint64(0x9E3779B97F4A7C15)
_TOP = np.uint64(0xFFFFFFFFFFFFFFFF)


def permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint64[count] a, uint64[count] b) of the hash functions x -> (a x + b mod 2^64) >> 32 on 32-bit x.

    Strongly universal, because 64 >= 32 + 32 - 1 bits are kept (Dietzfelbinger 1996; Thorup,
    https://arxiv.org/abs/1504.06804, section 3.3). On 64-bit x the same formula would not be.
    """
    words = random_words(0x5EED0002, 2 * count)
    # in turn, so that more functions leave the first ones as they are
    return words[0::2].copy(), words[1::2].copy()


@njit(nogil=True, cache=True)
def smallest(shingles, count, slopes, shifts, least):
    """The smallest value of each hash function over the shingles (their upper 32 bits) into `least`, uint64 of which the
    upper 32 bits count."""
    least[:] = _TOP
    half = np.uint64(32)
    at = 0
    # four at a time: coefficients are loaded once for four shingles
    while at + 4 <= count:
        one, two = shingles[at] >> half, shingles[at + 1] >> half
        three, four = shingles[at + 2] >> half, shingles[at + 3] >> half
        for of in range(len(slopes)):
            slope, shift = slopes[of], shifts[of]
            left = min(slope * one + shift, slope * two + shift)
            right = min(slope * three + shift, slope * four + shift)
            least[of] = min(least[of], min(left, right))
        at += 4
    while at < count:
        one = shingles[at] >> half
        for of in range(len(slopes)):
            least[of] = min(least[of], slopes[of] * one + shifts[of])
        at += 1


@njit(nogil=True, cache=True)
def _band_keys(data, offsets, ngram, rows, kinds, folds, weights, slopes, shifts, words, shingles, keys, sizes, draws):
    bands = keys.shape[1]
    least = np.empty(len(slopes), np.uint64)
    for at in range(len(offsets) - 1):
        count = words_of(data, offsets[at], offsets[at + 1], kinds, folds, words)
        count = shingles_of(words, count, ngram, weights, shingles)
        sizes[at] = count
        draws[at] = mixed(shingles[:count].min()) if count else _TOP
        smallest(shingles, count, slopes, shifts, least)
        for band in range(bands):
            key = mixed(np.uint64(band + 1) * _STEP)
            for of in range(band * rows, (band + 1) * rows):
                key = (key ^ (least[of] >> np.uint64(32))) * _STEP
                key ^= key >> np.uint64(29)
            keys[at, band] = mixed(key)


class Signed(NamedTuple):
    """What is made of N texts. The keys and the draw of a text without words mean nothing."""

    keys: np.ndarray
    """uint64[N, bands]"""
    sizes: np.ndarray
    """int64[N]: n-grams, repeated ones included."""
    draws: np.ndarray
    """uint64[N], evenly spread: two texts have the same with the probability of their similarity, whatever the bands say.
    All texts below a limit are therefore a sample that keeps near duplicates together."""


def band_keys(texts: pa.ChunkedArray, ngram: int, bands: int, rows: int, fold: Fold = _AS_IT_IS) -> Signed:
    """Keys of each text of a large_string column."""
    kinds, folds = fold_table(*fold)
    slopes, shifts = permutations(bands * rows)
    size = len(texts)
    signed = Signed(np.empty((size, bands), np.uint64), np.empty(size, np.int64), np.empty(size, np.uint64))
    first = 0
    for data, offsets in buffers(texts):
        here = slice(first, first + len(offsets) - 1)
        words, shingles = scratch(offsets)
        out = (signed.keys[here], signed.sizes[here], signed.draws[here])
        _band_keys(data, offsets, ngram, rows, kinds, folds, multipliers(), slopes, shifts, words, shingles, *out)
        first = here.stop
    return signed
