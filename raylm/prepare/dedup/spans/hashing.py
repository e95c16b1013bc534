"""A 64-bit hash of bytes, built byte by byte: FNV-1a, its bits mixed at the end."""

from __future__ import annotations

import numpy as np
from numba import njit

SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


@njit(cache=True, inline="always")
def add(state, byte):
    """One byte more."""
    return (state ^ np.uint64(byte)) * _PRIME


@njit(cache=True, inline="always")
def mix(state):
    """Every bit of the state in every bit of the hash (the finish of MurmurHash3)."""
    state ^= state >> np.uint64(33)
    state *= np.uint64(0xFF51AFD7ED558CCD)
    state ^= state >> np.uint64(33)
    state *= np.uint64(0xC4CEB9FE1A85EC53)
    return state ^ (state >> np.uint64(33))


@njit(cache=True, inline="always")
def is_space(byte):
    """Whether an ASCII byte is white space for str.split."""
    return byte == 32 or (9 <= byte <= 13) or (28 <= byte <= 31)
