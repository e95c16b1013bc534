"""Parquet: rows by row group, row numbers within the file, corrupt files counted."""

import pyarrow as pa
import pyarrow.parquet as pq

from raylm.data.records import Rejected
from raylm.data.sources.parquet import Parquet
from raylm.data.sources.units import batches_of


def _read(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


def test_every_row_group_is_read_once(tmp_path):
    table = pa.table({"text": [f"row {at}" for at in range(25)], "n": range(25)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    for split_rows in (1, 15, 1000):
        kept, lost = _read(Parquet(glob=str(tmp_path), split_rows=split_rows))
        assert not lost and [(row["text"], row["start"]) for row in kept] == [(f"row {at}", at) for at in range(25)]
    assert len(Parquet(glob=str(tmp_path), split_rows=1).units()) == 3


def test_a_corrupt_file_is_counted_and_the_others_go_on(tmp_path):
    pq.write_table(pa.table({"text": ["good"]}), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no such thing")
    # a sound footer over broken pages
    (tmp_path / "c.parquet").write_bytes(whole[:4] + bytes(20) + whole[24:])
    kept, lost = _read(Parquet(glob=str(tmp_path)))
    assert [row["text"] for row in kept] == ["good"]
    assert [row.reason for row in lost] == ["unreadable_file", "unreadable_file"]


def test_a_missing_column_tells_what_is_there(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    for card in (Parquet(glob=str(tmp_path)), Parquet(glob=str(tmp_path), text_column="contents")):
        _, lost = _read(card)
        assert lost[0].reason == "missing_column" and lost[0].columns == ("body", "n")


def test_structured_columns_are_kept(tmp_path):
    turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]]
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet")
    kept, _ = _read(Parquet(glob=str(tmp_path)))
    assert kept[0]["text"] == "hi\n\nho" and '"messages"' in kept[0]["record"]


def test_rows_of_very_different_length_are_all_read_with_their_meta(tmp_path):
    texts = ["a" * 200_000 if at % 50 == 0 else f"row {at}" for at in range(300)]
    pq.write_table(pa.table({"text": texts, "url": [f"u{at}" for at in range(300)], "deep": [[1]] * 300}), tmp_path / "a.parquet")
    card = Parquet(glob=str(tmp_path), max_row_bytes=100_000)
    kept, lost = _read(card)
    assert len(kept) == 294 and [row.where.rpartition(":")[2] for row in lost] == [str(at) for at in range(0, 300, 50)]
    assert {row.reason for row in lost} == {"row_too_long"} and kept[0]["meta"] == '{"url":"u1"}'


def test_a_row_group_whose_strings_overflow_32_bit_offsets_is_cut_in_batches(tmp_path):
    # 20 rows of 1 MB and 10,000 short ones in one row group: batches are cut by bytes, not by rows alone
    texts = ["x" * (1 << 20)] * 20 + ["short"] * 10_000
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), tmp_path / "a.parquet", row_group_size=20_000)
    card = Parquet(glob=str(tmp_path))
    tables = [table for unit in card.units() for table, _ in batches_of(card, unit)]
    assert sum(table.num_rows for table in tables) == 10_020 and max(table["text"].nbytes for table in tables) <= 21 << 20
    assert {str(table.schema.field("text").type) for table in tables} == {"large_string"}
