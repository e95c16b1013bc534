"""A shuffle by files: every row arrives in its partition, in task order, and only there."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.storage import Folder
from raylm.data.shuffle import gather, scatter


def _rows(draw, size):
    keys = draw.integers(0, 50, size)
    schema = pa.schema([("key", pa.int64()), ("words", pa.list_(pa.string())), ("text", pa.large_string())])
    return pa.table([keys, [["w"] * int(key % 3) for key in keys], [f"t{key}" for key in keys]], schema=schema)


@pytest.mark.parametrize("num_parts", [1, 2, 7])
def test_every_row_arrives_once_in_task_order(tmp_path, num_parts):
    draw, folder = np.random.default_rng(0), Folder(tmp_path)
    tables = [_rows(draw, size) for size in (0, 13, 200)]
    for task, table in enumerate(tables):
        scatter(folder, "x", task, table, table["key"].to_numpy() % num_parts, num_parts)
    for part in range(num_parts):
        found = gather(folder, "x", range(3), part)
        wanted = [row for table in tables for row in table.to_pylist() if row["key"] % num_parts == part]
        assert found.to_pylist() == wanted


def test_the_same_rows_give_the_same_bytes(tmp_path):
    table = _rows(np.random.default_rng(1), 100)
    for at in "ab":
        scatter(Folder(tmp_path / at).make(), "x", 0, table, table["key"].to_numpy() % 5, 5)
    assert Folder(tmp_path / "a").digest("x-000000.arrow") == Folder(tmp_path / "b").digest("x-000000.arrow")


def test_a_bucket_is_read_by_ranges():
    folder = Folder("memory://exchange")
    table = _rows(np.random.default_rng(2), 30)
    scatter(folder, "x", 0, table, table["key"].to_numpy() % 2, 2)
    assert gather(folder, "x", [0], 1).num_rows == int((table["key"].to_numpy() % 2).sum())
