"""Arrow IPC: files by record batch, streams whole, row numbers alike, broken files counted."""

import datasets
import pyarrow as pa
import pytest

from raylm.data.records import Rejected
from raylm.data.sources.arrow import Arrow, _joined
from raylm.data.sources.units import Span

TABLE = pa.table({"text": [f"row {at}" for at in range(25)], "n": range(25)})


def _read(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


def _write(path, make=pa.ipc.new_file, **options):
    with pa.OSFile(str(path), "wb") as sink, make(sink, TABLE.schema, **options) as writer:
        writer.write_table(TABLE, max_chunksize=4)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_files_are_cut_by_record_batch_and_streams_are_not(tmp_path, compression):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    _write(tmp_path / "a.arrow", options=options)
    _write(tmp_path / "b.arrow", pa.ipc.new_stream, options=options)
    card = Arrow(glob=str(tmp_path), split_bytes=1)
    kept, lost = _read(card)
    assert not lost and len(card.units()) == 7 + 1
    assert [(row["text"], row["start"]) for row in kept] == [(f"row {at}", at) for at in range(25)] * 2
    assert kept == _read(Arrow(glob=str(tmp_path)))[0] and kept[3]["meta"] == '{"n":3}'


def test_ranges_in_a_row_are_one_range_of_their_file():
    spans = [Span("a", "a", 0, 1), Span("a", "a", 1, 2), Span("b", "b", 2, 3), Span("b", "b", 4, 5), Span("c", "c", -1, 9)]
    assert [span[2:] for span in _joined(spans)] == [(0, 2), (2, 3), (4, 5), (-1, 9)]
    assert list(_joined([])) == []


def test_what_datasets_saves_is_read(tmp_path):
    datasets.Dataset(TABLE).save_to_disk(tmp_path / "saved")
    kept, lost = _read(Arrow(glob=str(tmp_path / "saved" / "*.arrow")))
    assert not lost and [row["text"] for row in kept] == TABLE["text"].to_pylist()


def test_broken_files_are_counted_and_rows_before_the_break_kept(tmp_path):
    _write(tmp_path / "a.arrow", pa.ipc.new_stream)
    content = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "b.arrow").write_bytes(b"ARROW1 no such thing")
    (tmp_path / "c.arrow").write_bytes(b"nothing of the kind")
    _write(tmp_path / "d.arrow")
    kept, lost = _read(Arrow(glob=str(tmp_path)))
    assert [row.reason for row in lost] == ["unreadable_file"] * 3
    assert sum(row["source"].endswith("d.arrow") for row in kept) == 25 and len(kept) > 25
