"""What changed in a tensor, sent and put in: to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.inference.changes import BLOCK, apply_changes, changes


@pytest.mark.parametrize("dtype", ["float32", "uint16", "uint8", "float64"])
@pytest.mark.parametrize("size", [1, 1000, BLOCK, 3 * BLOCK + 7])
def test_changes_make_the_one_of_the_other(dtype, size):
    rng = np.random.default_rng(size)
    before = (rng.random(size) * 200).astype(dtype)
    after = before.copy()
    after[rng.integers(0, size, max(1, size // 100))] += 1
    base, held = before.copy(), before.copy()
    found = changes(base, after)
    assert np.array_equal(base, after)
    if found is None:  # of few values, all are shorter
        assert size * after.itemsize < 7 + 2 + 4 * after.itemsize
        return
    apply_changes(found, held)
    assert held.tobytes() == after.tobytes()
    assert len(found) == 4 * -(-size // BLOCK) + (before != after).sum() * (2 + after.itemsize)


def test_every_bit_counts():
    before = np.array([0.0, np.nan, 1.0, np.inf] * 50, np.float32).reshape(2, 100)
    after = before.copy()
    assert len(changes(before.copy(), after)) == 0, "a NaN that stayed is no change"
    after[0, 0] = -0.0
    after.view(np.uint32)[1, 1] ^= 1
    held = before.copy()
    apply_changes(changes(before.copy(), after), held)
    assert held.tobytes() == after.tobytes() != before.tobytes()


def test_changes_of_another_size_are_refused():
    before, after = np.zeros(100, np.float32), np.zeros(100, np.float32)
    after[3] = 1
    with pytest.raises(ValueError, match="10 bytes of changes do not belong to 100 values of 8 bytes"):
        apply_changes(changes(before, after), np.zeros(100))


def test_where_most_changed_all_is_sent():
    assert changes(np.zeros(100, np.float32), np.ones(100, np.float32)) is None
