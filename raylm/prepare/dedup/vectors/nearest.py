"""The nearest kept vector before each vector, in order: what the `semantic` dedup decides by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_BLOCK = 1024
# vectors are held in 16 bits: two that are the same may come out this much less alike
_ROUNDING = 1e-4


def nearest_kept(fetch: Callable[[np.ndarray], np.ndarray], size: int, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Go through vectors in order: one whose cosine to a kept one is at least `similarity` is dropped, else it is kept.

    Holds three blocks of 1024 vectors, however many there are; every kept one is read once per block.

    Args:
        fetch: float32[n, D] unit vectors for int64[n] places.

    Returns:
        (other int64[N], score float32[N]): place of the one it is dropped for, -1 when kept; similarity to the kept one
        before it that is most alike, -1 for the first.
    """
    other, score = np.full(size, -1, np.int64), np.full(size, -1, np.float32)
    kept = np.zeros(0, np.int64)
    least = similarity - _ROUNDING
    for start in range(0, size, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, size))
        block = fetch(places)
        best = np.full(len(places), -1, np.int64)
        for first in range(0, len(kept), _BLOCK):
            held = kept[first : first + _BLOCK]
            alike = block @ fetch(held).T
            most = alike.argmax(1)
            value = alike[np.arange(len(places)), most]
            better = value > score[places]
            score[places[better]], best[better] = value[better], held[most[better]]
        stays = _within(block @ block.T, score, best, places, least)
        other[places[~stays]] = best[~stays]
        kept = np.concatenate([kept, places[stays]])
    return other, score


def _within(alike: np.ndarray, score: np.ndarray, best: np.ndarray, places: np.ndarray, least: float) -> np.ndarray:
    """bool[n]: which of one block stay; score and best are brought up to date with those of the block itself."""
    stays = np.zeros(len(places), dtype=bool)
    for at, place in enumerate(places):
        if at and stays[:at].any():
            row = np.where(stays[:at], alike[at, :at], -2)
            most = int(row.argmax())
            if row[most] > score[place]:
                score[place], best[at] = row[most], places[most]
        stays[at] = score[place] < least
    return stays
