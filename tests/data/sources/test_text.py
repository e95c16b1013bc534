"""Text files: one document per file or per block, with byte ranges that hold exactly the text."""

import gzip

import pytest
import zstandard

from raylm.core.errors import DataError
from raylm.data.records import Rejected
from raylm.data.sources.text import Text


def _read(card):
    return [row for unit in card.units() for row in card.read(unit)]


def test_a_file_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text("drei ü")
    assert [row["text"] for row in _read(Text(glob=str(tmp_path / "*.txt")))] == ["one\n\ntwo\n", "drei ü"]


def test_byte_ranges_hold_the_paragraphs(tmp_path):
    content = "\n\none\nmore\n\n\n  \ntwo ü\n\nthree\n\n"
    (tmp_path / "a.txt").write_text(content)
    rows = _read(Text(glob=str(tmp_path), by="paragraph"))
    assert [row["text"] for row in rows] == ["one\nmore", "two ü", "three"]
    assert all(content.encode()[row["start"] : row["end"]].decode() == row["text"] for row in rows)


def test_bad_files_are_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "b.txt").write_text("  \n")
    (tmp_path / "c.txt").write_text("x" * 100)
    rows = _read(Text(glob=str(tmp_path), max_row_bytes=50))
    assert all(isinstance(row, Rejected) for row in rows)
    assert [row.reason for row in rows] == ["invalid_utf8", "empty", "row_too_long"]


@pytest.mark.parametrize("by", ["file", "paragraph", "line"])
def test_compressed_files_hold_the_same_documents(tmp_path, by):
    content = "one ü\nmore\n\ntwo\n".encode()
    for name, packed in (("a.txt", content), ("b.gz", gzip.compress(content)), ("c.zst", zstandard.compress(content))):
        (tmp_path / name).write_bytes(packed)
    plain, gz, zst = (
        [(row["text"], row["start"], row["end"]) for row in _read(Text(glob=str(tmp_path / name), by=by))]
        for name in ("a.txt", "b.gz", "c.zst")
    )
    assert plain == gz == zst and len(plain) == {"file": 1, "paragraph": 2, "line": 3}[by]


def test_a_compressed_file_that_is_broken_or_unpacks_to_too_much_is_counted(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"cut short")[:-4])
    (tmp_path / "b.gz").write_bytes(b"no gzip at all")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"x" * 1000))
    (tmp_path / "d.gz").write_bytes(gzip.compress(b"y" * 50))
    rows = _read(Text(glob=str(tmp_path), max_row_bytes=50))
    assert [row.reason for row in rows[:3]] == ["unreadable_file", "corrupt_member", "row_too_long"]
    assert [row["text"] for row in rows[3:]] == ["y" * 50]


@pytest.mark.parametrize("by", ["file", "paragraph", "line"])
def test_a_byte_order_mark_is_no_text(tmp_path, by):
    content = b"\xef\xbb\xbfone"
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbf")
    *rows, blank = _read(Text(glob=str(tmp_path), by=by))
    assert [(row["text"], row["start"], row["end"]) for row in rows] == [("one", 3, 6)] * 2 and blank.reason == "empty"


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        Text(glob=str(tmp_path)).units()


def test_lines_are_read_once_however_the_file_is_cut(tmp_path):
    content = "".join(f"line {at} ü\r\n" if at % 3 else "\n" for at in range(50)) + "last"
    (tmp_path / "a.txt").write_bytes(content.encode())
    whole = _read(Text(glob=str(tmp_path), by="line"))
    assert [row["text"] for row in whole] == [line for line in content.splitlines() if line]
    assert all(content.encode()[row["start"] : row["end"]].decode() == row["text"] for row in whole)
    for split_bytes in (1, 9, 100):
        assert _read(Text(glob=str(tmp_path), by="line", split_bytes=split_bytes)) == whole


def test_a_paragraph_that_is_too_long_is_dropped_and_the_next_one_kept(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n" + "x" * 30 + "\n" + "x" * 30 + "\nmore\n\ntwo\n\n" + "y" * 100 + "\n\nthree")
    rows = _read(Text(glob=str(tmp_path), by="paragraph", max_row_bytes=50))
    assert [row["text"] if isinstance(row, dict) else row.reason for row in rows] == [
        "one",
        "row_too_long",
        "two",
        "row_too_long",
        "three",
    ]
