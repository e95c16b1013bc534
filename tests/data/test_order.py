"""Shuffled order: a permutation in every epoch, random to the eye, and fixed for ever."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from raylm.data.order import batch_indices, permute, walk

MASK = (1 << 64) - 1


def positions(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint64)


def mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def slow_permute(offset: int, num_rows: int, key: int) -> int:
    """The same network in plain integers."""
    bits = max(6, (num_rows - 1).bit_length())
    left, right = bits // 2, bits - bits // 2
    while True:
        high, low = offset >> right, offset & ((1 << right) - 1)
        for number in range(8):
            round_key = mix((key + (number + 1) * 0x9E3779B97F4A7C15) & MASK)
            if number % 2:
                low ^= mix(high ^ round_key) & ((1 << right) - 1)
            else:
                high ^= mix(low ^ round_key) & ((1 << left) - 1)
        offset = (high << right) | low
        if offset < num_rows:
            return offset


@pytest.mark.parametrize("num_rows", [1, 2, 3, 23, 64, 65, 1000, 4097])
def test_every_epoch_holds_every_row_once(num_rows):
    for epoch in range(3):
        assert sorted(walk(positions(epoch * num_rows, num_rows), num_rows, seed=5)) == list(range(num_rows))


@pytest.mark.parametrize("num_rows", [5, 100, 10**9, 2**62])
def test_the_vectorised_network_is_the_plain_one(num_rows):
    draw = np.random.default_rng(0)
    offsets, keys = draw.integers(0, num_rows, 20).astype(np.uint64), draw.integers(0, 2**63, 20).astype(np.uint64)
    expected = [slow_permute(int(offset), num_rows, int(key)) for offset, key in zip(offsets, keys, strict=True)]
    assert permute(offsets, num_rows, keys).tolist() == expected


def test_golden_vectors():
    """A run that is resumed with a newer raylm must see the same rows: these numbers never change."""
    assert batch_indices(23, 8, 0, 0) == GOLDEN_23
    assert batch_indices(1000, 4, 300, -7) == GOLDEN_1000
    assert batch_indices(10**12, 4, 10**9, 3) == GOLDEN_LARGE
    assert walk(positions(0, 4), 1000, 0, stream=2).tolist() == GOLDEN_STREAM


def test_a_batch_is_a_part_of_one_walk_and_may_reach_over_an_epoch():
    whole = walk(positions(0, 70), 23, 1).tolist()
    assert [row for step in range(10) for row in batch_indices(23, 7, step, 1)] == whole
    assert whole[:23] != whole[23:46]


def test_rows_land_everywhere_alike_and_neighbours_are_strangers():
    rows = 1000
    orders = np.stack([walk(positions(epoch * rows, rows), rows, 1) for epoch in range(1000)])
    for place in (0, 1, 499, 999):
        counts = np.bincount(orders[:, place] // 100, minlength=10)
        assert ((counts - 100) ** 2 / 100).sum() < 35  # chi-square with 9 degrees of freedom: p = 6e-5
    assert abs(np.corrcoef(orders[:, :-1].ravel(), orders[:, 1:].ravel())[0, 1]) < 0.005
    fixed = (orders == np.arange(rows)).sum(1)  # of a random permutation: Poisson with mean 1
    assert abs(fixed.mean() - 1) < 0.15 and abs(fixed.var() - 1) < 0.2


def test_small_sets_come_in_every_order_about_equally_often():
    seen = Counter(map(tuple, walk(positions(0, 4 * 4800), 4, 5).reshape(-1, 4).tolist()))
    assert len(seen) == 24 and min(seen.values()) > 130 and max(seen.values()) < 280


def test_seeds_streams_and_epochs_have_orders_of_their_own():
    base = walk(positions(0, 1000), 1000, 0)
    for other in (walk(positions(0, 1000), 1000, 1), walk(positions(0, 1000), 1000, 0, 1), walk(positions(1000, 1000), 1000, 0)):
        assert (base == other).sum() < 12


def test_a_trillion_rows_cost_what_a_batch_costs():
    tracemalloc.start()
    found = batch_indices(10**12, 1024, 10**6, 0)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert len(set(found)) == 1024 and max(found) < 10**12


GOLDEN_23 = [14, 7, 12, 6, 0, 3, 22, 20]
GOLDEN_1000 = [410, 82, 131, 484]
GOLDEN_LARGE = [164656841090, 784499915395, 852375238398, 894122503336]
GOLDEN_STREAM = [581, 196, 997, 959]
