"""Counts of hashed words and word pairs over texts, and the sum of their weights in each text.

Words are as in DSIR (Xie et al. 2023, https://arxiv.org/abs/2302.03169): lower case, runs of letters, digits and _, and
runs of what is neither that nor space.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np

NUM_BUCKETS = 10_000
SPACE, WORD, OTHER = 0, 1, 2


def ngrams(texts: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read texts once.

    Args:
        texts: Arrow column of (large) strings, without nulls.
        weights: float64[NUM_BUCKETS].

    Returns:
        float64[N], the weights of all words and pairs of each text, added up; int64[NUM_BUCKETS], how often each was seen.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    counts, sums = np.zeros(NUM_BUCKETS, dtype=np.int64), np.zeros(len(texts))
    lowered: Any = pc.call_function("utf8_lower", [texts.cast(pa.large_string())])
    at = 0
    for chunk in lowered.chunks if isinstance(lowered, pa.ChunkedArray) else [lowered]:
        _, offsets, data = chunk.buffers()
        if len(chunk) and data is not None:
            ends = np.frombuffer(offsets, dtype=np.int64, count=len(chunk) + 1, offset=8 * chunk.offset)
            _read(np.frombuffer(data, dtype=np.uint8), ends, _classes(), weights, sums[at : at + len(chunk)], counts)
        at += len(chunk)
    return sums, counts


@lru_cache(maxsize=1)
def _classes() -> np.ndarray:
    """uint8 per code point: what the re module takes it for."""
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    for point in range(0x110000):
        char = chr(point)
        if char.isalnum() or char == "_":
            classes[point] = WORD
        elif char.isspace():
            classes[point] = SPACE
    return classes


@numba.njit(cache=True, inline="always")
def _mix(value: np.uint64) -> np.uint64:
    """SplitMix64's finalizer: FNV alone leaves the low bits of like words alike."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _read(data, offsets, classes, weights, sums, counts):
    """UTF-8 of all texts, one after the other: FNV-1a of each word, a bucket for it and one for it and the word before."""
    start, prime, pair = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
    size = np.uint64(NUM_BUCKETS)
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        hashed, before, kind, first = start, np.uint64(0), 0, True
        total = 0.0
        while at <= end:
            width, here = 1, 0
            if at < end:
                byte = np.int64(data[at])
                point = byte
                if byte >= 0xF0:
                    width, point = 4, byte & 7
                elif byte >= 0xE0:
                    width, point = 3, byte & 15
                elif byte >= 0xC0:
                    width, point = 2, byte & 31
                for more in range(1, width):
                    point = (point << 6) | (np.int64(data[at + more]) & 63)
                here = classes[point]
            if here != kind:
                if kind:
                    bucket = np.int64(_mix(hashed) % size)
                    total += weights[bucket]
                    counts[bucket] += 1
                    if not first:
                        bucket = np.int64(_mix(before * pair + hashed) % size)
                        total += weights[bucket]
                        counts[bucket] += 1
                    before, first = hashed, False
                hashed, kind = start, here
            if here:
                for more in range(width):
                    hashed = (hashed ^ np.uint64(data[at + more])) * prime
            at += width
        sums[text] = total
