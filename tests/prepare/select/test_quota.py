"""Keys sort as their values do; the digits of keys find the row where a sorted list would."""

from collections import Counter

import numpy as np
import pyarrow as pa

from raylm.prepare.select import quota
from raylm.prepare.select.quota import sortable, value_of


def test_keys_sort_as_values_and_go_back():
    values = np.array([-np.inf, -3.5, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 7e30, np.inf], dtype=np.float32)
    keys = sortable(values)
    assert (np.diff(keys.astype(np.int64)) >= 0).all() and keys[3] == keys[4]
    assert len(set(keys.tolist())) == len(keys) - 1
    assert [value_of(int(key)) for key in keys] == values.tolist()


def test_digits_find_where_a_sorted_list_would():
    draw = np.random.default_rng(0)
    for spread in (3, 5000, 2**32):
        keys, weights = draw.integers(spread, size=500).astype(np.uint32), draw.integers(1, 9, size=500)
        shards = [slice(0, 200), slice(200, 200), slice(200, 500)]
        tables = [_rows(keys[cut], weights[cut]) for cut in shards]
        for wanted in (0, 1, 777, int(weights.sum()) - 1):
            places, done = [("g", 0, 0, wanted)], 0
            for width in quota._DIGITS:
                marks = [{"bins": quota._bins(table, done, width, [("g", place[2]) for place in places])} for table in tables]
                places = [quota._narrowed(place, quota._summed(marks)["g"], width) for place in places]
                done += width
            (_, _, key, left) = places[0]
            order = np.lexsort((np.arange(500), keys))
            stay = order[np.cumsum(weights[order]) <= wanted]
            first_out = order[len(stay)]
            assert key == keys[first_out]
            ties = quota._ties(marks, "g", key, left)
            same = Counter({at: int(weights[cut][keys[cut] == key].sum()) for at, cut in enumerate(shards)})
            assert set(ties) == {at for at in same if same[at]}
            assert wanted - left == weights[keys < key].sum()


def _rows(keys, weights):
    size = len(keys)
    return pa.table(
        {"key": keys, "weight": weights, "missing": pa.array(np.zeros(size, bool)), "group": pa.array(["g"] * size, pa.string())}
    )
