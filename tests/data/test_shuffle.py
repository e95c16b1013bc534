"""A shuffle by files: every row arrives in its partition, in task order, and only there."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.storage import Folder
from raylm.data import shuffle
from raylm.data.shuffle import gather, gather_all, group_size, merge, num_groups, scatter


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


def _scattered(folder, tables, num_parts):
    for task, table in enumerate(tables):
        scatter(folder, "x", task, table, table["key"].to_numpy() % num_parts, num_parts)


@pytest.mark.parametrize("root", ["", "memory://merged"])
def test_files_of_many_tasks_are_merged_and_give_the_same_rows_in_the_same_order(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MOST", 3)
    folder, draw = Folder(root or tmp_path), np.random.default_rng(0)
    tables = [_rows(draw, size) for size in (5, 0, 13, 40, 1, 7, 20, 3)]
    _scattered(folder, tables, 4)
    assert (group_size(8), num_groups(8)) == (3, 3)
    for group in range(3):
        merge(folder, "x", group, 8)
    # one that was killed between its writing and its tidying
    scatter(folder, "x", 0, tables[0].slice(1), tables[0].slice(1)["key"].to_numpy() % 4, 4)
    merge(folder, "x", 0, 8)
    assert folder.names() == [f"x-merged-{group:06d}.arrow" for group in range(3)]
    for part in range(4):
        wanted = [row for table in tables for row in table.to_pylist() if row["key"] % 4 == part]
        assert gather_all(folder, "x", 8, part).to_pylist() == wanted


def test_few_tasks_are_not_merged(tmp_path):
    folder, table = Folder(tmp_path), _rows(np.random.default_rng(3), 30)
    _scattered(folder, [table, table], 2)
    assert group_size(shuffle.MOST) == 1 and group_size(shuffle.MOST + 1) == 2 and num_groups(30_000) <= shuffle.MOST
    assert gather_all(folder, "x", 2, 1).num_rows == 2 * int((table["key"].to_numpy() % 2).sum())
