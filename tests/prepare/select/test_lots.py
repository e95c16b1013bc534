"""Lots hang on id, use and seed alone, and are even."""

import numpy as np

from raylm.prepare.select.lots import lots, points


def test_lots_hang_on_id_use_and_seed():
    ids = [f"{at:024x}" for at in range(4000)]
    drawn = lots(ids, "sample", 0)
    assert (drawn[::-1] == lots(ids[::-1], "sample", 0)).all()
    others = [lots(ids, "dsir", 0), lots(ids, "sample", 1), lots(ids, "sample", -1)]
    for other in others:
        assert abs(np.corrcoef(points(drawn), points(other))[0, 1]) < 0.05
    assert abs(points(drawn).mean() - 0.5) < 0.02 and points(drawn).min() >= 0 and points(drawn).max() < 1
    assert points(np.array([2**64 - 1, 0], dtype=np.uint64)).tolist() == [1 - 2**-53, 0.0]
