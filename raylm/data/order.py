"""Stateless shuffled order: row numbers from a seed and a position, the same for any number of ranks.

position --> epoch = position // rows, offset = position % rows --> keyed permutation of [0, rows) at that offset
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# rounds of the Feistel network: 4 already pass the tests, twice as many cost nothing beside reading a row
_ROUNDS = 8
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def batch_indices(num_rows: int, batch: int, step: int, seed: int) -> list[int]:
    """Row numbers of batch `step`. Every epoch has an order of its own; a batch may reach over the end of an epoch."""
    import numpy as np

    first = step * batch
    return walk(np.arange(first, first + batch, dtype=np.uint64), num_rows, seed).tolist()


def walk(positions: np.ndarray, num_rows: int, seed: int, stream: int = 0) -> np.ndarray:
    """Row numbers, int64, at `positions` (uint64) of a walk that goes through all rows once per epoch.

    Time and memory grow with the number of positions, not with `num_rows` (up to 2**62).

    Args:
        stream: distinguishes walks over several sets of rows with one seed.
    """
    import numpy as np

    positions = np.asarray(positions, dtype=np.uint64)
    epochs, offsets = positions // np.uint64(num_rows), positions % np.uint64(num_rows)
    start = np.array([seed & _MASK], dtype=np.uint64)
    key = _mix(_mix(_mix(start + np.uint64(_GOLDEN)) + np.uint64(stream)) + epochs)
    return permute(offsets, num_rows, key).astype(np.int64)


def permute(offsets: np.ndarray, num_rows: int, key: np.ndarray) -> np.ndarray:
    """A permutation of [0, num_rows), chosen by `key`, at `offsets` (all uint64, same shape).

    A Feistel network over the next power of two, walked until it comes back inside (Black and Rogaway, Ciphers with arbitrary
    finite domains, https://www.cs.ucdavis.edu/~rogaway/papers/subset.pdf); on average under two walks each, from 32 rows on.
    """
    import numpy as np

    # below 64 a network has too few different orders to draw from
    bits = max(6, (num_rows - 1).bit_length())
    right = bits - bits // 2
    found = _feistel(offsets, key, bits // 2, right)
    outside = np.flatnonzero(found >= num_rows)
    while len(outside):
        found[outside] = _feistel(found[outside], key[outside], bits // 2, right)
        outside = outside[found[outside] >= num_rows]
    return found


def _feistel(values: np.ndarray, key: np.ndarray, left: int, right: int) -> np.ndarray:
    """A permutation of `left + right` bits: the halves are changed in turn, each by a hash of the other."""
    import numpy as np

    low_mask, high_mask = np.uint64((1 << right) - 1), np.uint64((1 << left) - 1)
    high, low = values >> np.uint64(right), values & low_mask
    for number in range(_ROUNDS):
        round_key = _mix(key + np.uint64((number + 1) * _GOLDEN & _MASK))
        if number % 2:
            low = low ^ (_mix(high ^ round_key) & low_mask)
        else:
            high = high ^ (_mix(low ^ round_key) & high_mask)
    return (high << np.uint64(right)) | low


def _mix(value: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (https://prng.di.unimi.it/splitmix64.c): every bit of `value` changes half of the result."""
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
