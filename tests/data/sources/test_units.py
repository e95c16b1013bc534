"""Files to units: what matches, how it is grouped, and tables of about equal size."""

import os

import pytest

from raylm.core.errors import DataError, StorageError
from raylm.data.records import Rejected, document, schema
from raylm.data.sources.units import Span, Unit, batches_of, grouped, matched, sliced, table_of, unit_of


class Rows:
    """A card with `read` alone."""

    def __init__(self, rows):
        self.rows = rows

    def read(self, unit):
        yield from self.rows


def test_files_are_matched_in_order_and_nothing_else_is(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).write_text(name)
    os.symlink(tmp_path / "nowhere", tmp_path / "link.txt")
    found = matched(str(tmp_path))
    assert [span.source for span in found] == [f"{tmp_path}/{name}" for name in ("a.txt", "b.txt", "deep/c.txt")]
    assert [span.source for span in matched(f"{tmp_path}/*.txt")] == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    assert found == [
        span._replace(path=span.path.removeprefix("file://"), source=span.source.removeprefix("file://"))
        for span in matched(f"file://{tmp_path}")
    ]
    with pytest.raises(DataError, match="no file matches"):
        matched(f"{tmp_path}/*.csv")


def test_a_name_that_no_id_could_hold_is_refused(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w"):
        pass
    with pytest.raises(DataError, match=r"udcff.txt': the name of a file is no UTF-8"):
        matched(str(tmp_path))


def test_a_path_is_absolute_and_the_source_is_as_written(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert matched("*.txt") == [Span(f"{tmp_path}/a.txt", "a.txt", 0, 1)]


def test_units_are_closed_by_bytes_and_by_files():
    spans = [Span("f", "f", 0, 10)] * 7
    assert [len(unit.spans) for unit in grouped(spans, 30)] == [3, 3, 1]
    assert [len(unit.spans) for unit in grouped([Span("f", "f", 0, 1)] * 25_000, 1 << 30)] == [10_000, 10_000, 5_000]
    assert [span[2:] for span in sliced(Span("f", "f", 0, 25), 10)] == [(0, 10), (10, 20), (20, 25)]
    assert list(sliced(Span("f", "f", 0, 0), 10)) == [Span("f", "f", 0, 0)]


def test_a_unit_travels_as_json():
    unit = Unit((Span("a", "b", 0, 1),), 7, ("score",))
    assert unit_of(unit.plain()) == unit


def test_tables_are_cut_by_rows_and_by_bytes():
    short = [document("f", at, at + 1, "x") for at in range(2500)]
    assert [len(table) for table, _ in batches_of(Rows(short), Unit(()))] == [1000, 1000, 500]
    long = [document("f", at, at + 1, "x" * (6 << 20)) for at in range(5)]
    assert [len(table) for table, _ in batches_of(Rows(long), Unit(()))] == [3, 2]
    bad = [Rejected("empty", f"f:{at}") for at in range(1500)]
    found = list(batches_of(Rows(bad), Unit(())))
    assert [len(lost) for _, lost in found] == [1000, 500] and found[0][0].schema == schema()
    assert list(batches_of(Rows([]), Unit(()))) == []


def test_a_table_is_what_arrow_makes_of_the_rows():
    import pyarrow as pa

    rows = [document("f", at, at + 1, "ü" * at, {"a": at} if at % 2 else None, None) for at in range(5)]
    assert table_of(rows) == pa.Table.from_pylist(rows, schema=schema())


@pytest.mark.parametrize(
    ("glob", "word"), [("nosuch://bucket/*.jsonl", "no kind of address"), ("smb://host/share/*", "no driver")]
)
def test_addresses_that_nothing_can_read_are_one_sentence(glob, word):
    with pytest.raises(StorageError, match=word):
        matched(glob)
