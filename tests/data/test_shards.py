"""Shards: same bytes every time, and every row back by its number."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.artifact import FileEntry, Manifest, Tokens
from raylm.core.storage import Folder
from raylm.data.records import document, schema
from raylm.data.shards import Rows, _Column, map_arrow, read_parquet, write_arrow, write_parquet


def _table(first, count):
    flat = pa.array(np.arange(first * 4, (first + count) * 4, dtype=np.int32))
    return pa.table(
        {
            "tokens": pa.FixedSizeListArray.from_arrays(flat, 4),
            "starts": pa.array([[at] * (at % 3) for at in range(first, first + count)], pa.list_(pa.int32())),
            "id": [f"id{at}" for at in range(first, first + count)],
            "ground_truth": pa.array([None if at % 2 else "yes" for at in range(first, first + count)], pa.string()),
        }
    )


def _artifact(at):
    folder, first, rows = Folder(at), 0, {}
    for index, count in ((0, 3), (2, 1), (3, 6)):
        rows[f"train-{index:05d}.arrow"] = count
        write_arrow(folder, f"train-{index:05d}.arrow", _table(first, count))
        first += count
    files = [FileEntry(path=name, bytes=folder.size(name), digest="", rows=rows[name]) for name in folder.files()]
    manifest = Manifest(
        kind="Tokens",
        stage="t",
        fingerprint="",
        config={},
        identity={},
        inputs=[],
        files=files,
        facts={},
        metrics={},
        versions={},
        git_commit=None,
        made_at="",
        seconds=0,
    )
    folder.write("manifest.json", manifest.model_dump_json())
    return Tokens(folder, manifest)


def test_rows_come_back_by_number_also_after_pickling(tmp_path):
    rows = Rows.open(_artifact(tmp_path).uri, "train")
    for found in (rows, pickle.loads(pickle.dumps(rows))):
        assert len(found) == 10
        for at in range(10):
            row = found[at]
            assert row["tokens"].tolist() == list(range(at * 4, at * 4 + 4)) and row["tokens"].dtype == np.int32
            assert row["starts"].tolist() == [at] * (at % 3)
            assert row["id"] == f"id{at}" and row["ground_truth"] == (None if at % 2 else "yes")
    with pytest.raises(IndexError):
        rows[10]
    assert len(Rows.open(str(tmp_path), "held_out")) == 0


def test_a_shard_is_mapped_when_a_row_of_it_is_read(tmp_path):
    rows = Rows.open(_artifact(tmp_path).uri, "train")
    for name in ("train-00000.arrow", "train-00003.arrow"):
        (tmp_path / name).unlink()
    assert len(rows) == 10 and rows[3]["id"] == "id3"


def test_tokens_are_views_and_no_copies(tmp_path):
    rows = Rows.open(_artifact(tmp_path).uri, "train")
    assert not rows[4]["tokens"].flags.owndata and not rows[4]["tokens"].flags.writeable


def test_shards_have_the_same_bytes_every_time(tmp_path):
    folder = Folder(tmp_path)
    table = pa.Table.from_pylist([document("a", at, at + 1, f"text {at}" * 50) for at in range(500)], schema=schema())
    write_parquet(folder, "a.parquet", table)
    write_parquet(folder, "b.parquet", pa.concat_tables([table.slice(0, 100), table.slice(100)]))
    assert folder.read("a.parquet") == folder.read("b.parquet") and read_parquet(folder, "a.parquet").equals(table)
    write_arrow(folder, "a.arrow", table)
    write_arrow(folder, "b.arrow", pa.concat_tables([table.slice(0, 100), table.slice(100)]))
    assert folder.read("a.arrow") == folder.read("b.arrow")


def test_lists_that_are_empty_in_every_row_are_read(tmp_path):
    path = tmp_path / "train-000000.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([("tokens", pa.list_(pa.null()))])) as writer:
        writer.write_table(pa.table({"tokens": [[], []]}, schema=pa.schema([("tokens", pa.list_(pa.null()))])))
    column = _Column(map_arrow(path).column("tokens"))
    assert [list(column[0]), list(column[1])] == [[], []]


def test_a_column_of_an_earlier_version_has_its_new_name(tmp_path):
    old = _table(0, 2).rename_columns(["tokens", "starts", "id", "truth"])
    write_arrow(Folder(tmp_path), "train-00000.arrow", old)
    write_arrow(Folder(tmp_path), "train-00001.arrow", _table(2, 2))
    entries = [FileEntry(path=f"train-0000{at}.arrow", bytes=0, digest="", rows=2) for at in (0, 1)]
    rows = Rows(Folder(tmp_path), "train", entries)
    assert [rows[at]["ground_truth"] for at in range(4)] == ["yes", None, "yes", None]
    both = _table(0, 1).append_column("truth", pa.array(["other"]))
    write_arrow(Folder(tmp_path), "both.arrow", both)
    assert map_arrow(tmp_path / "both.arrow").column_names == both.column_names
