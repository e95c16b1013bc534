"""Hashed n-grams: against a slow reference with Python's re module."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa

from raylm.prepare.select.ngrams import NUM_BUCKETS, ngrams

_MASK = (1 << 64) - 1
TEXTS = [
    "The cat, the CAT; the hat!!! it's (so_so) x86-64.",
    "",
    "   ",
    "Ünïcödé “quotes” — naïve Straße\u00a0Жизнь 中文字符。日本語 ١٢٣ हिन्दी 😀😀 e\u0301",
    "a\u2028b\tc\x00d\x1ce",
    "one",
]


def test_counts_and_weights_are_those_of_the_slow_reference():
    weights = np.random.default_rng(0).normal(size=NUM_BUCKETS)
    bags = [bag_of(text) for text in TEXTS]
    sums, counts = ngrams(pa.chunked_array([TEXTS[:3], TEXTS[3:]]), weights)
    np.testing.assert_allclose(sums, [sum(weights[at] * n for at, n in bag.items()) for bag in bags], atol=1e-9)
    total = sum(bags, Counter())
    assert {int(at): int(counts[at]) for at in np.flatnonzero(counts)} == dict(total)
    # a slice of a column reads its own rows
    assert (ngrams(pa.array(TEXTS)[3:5], weights)[0] == sums[3:5]).all()
    assert ngrams(pa.chunked_array([], pa.large_string()), weights)[1].sum() == 0


def bag_of(text: str) -> Counter[int]:
    """How often each bucket is met: the slow way, one Python integer at a time."""
    hashes = [_fnv(word.encode()) for word in re.findall(r"\w+|[^\w\s]+", text.lower())]
    pairs = [(before * 0x9E3779B97F4A7C15 + after) & _MASK for before, after in pairwise(hashes)]
    return Counter(_mix(hashed) % 10_000 for hashed in (*hashes, *pairs))


def _fnv(data: bytes) -> int:
    hashed = 0xCBF29CE484222325
    for byte in data:
        hashed = ((hashed ^ byte) * 0x100000001B3) & _MASK
    return hashed


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
