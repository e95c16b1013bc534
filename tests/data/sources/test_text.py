"""Text files: one document per file or per block, with byte ranges that hold exactly the text."""

import pytest

from raylm.core.errors import DataError
from raylm.data.records import Rejected
from raylm.data.sources.text import Text


def _read(card):
    return [row for unit in card.units() for row in card.read(unit)]


def test_a_file_is_a_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text("drei ü")
    assert [row["text"] for row in _read(Text(glob=str(tmp_path / "*.txt")))] == ["one\n\ntwo\n", "drei ü"]


def test_blocks_lie_where_they_say(tmp_path):
    content = "\n\none\nmore\n\n\n  \ntwo ü\n\nthree\n\n"
    (tmp_path / "a.txt").write_text(content)
    rows = _read(Text(glob=str(tmp_path), by="block"))
    assert [row["text"] for row in rows] == ["one\nmore", "two ü", "three"]
    assert all(content.encode()[row["start"] : row["end"]].decode() == row["text"] for row in rows)


def test_bad_files_are_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "b.txt").write_text("  \n")
    (tmp_path / "c.txt").write_text("x" * 100)
    rows = _read(Text(glob=str(tmp_path), max_row_bytes=50))
    assert all(isinstance(row, Rejected) for row in rows)
    assert [row.reason for row in rows] == ["invalid_utf8", "empty", "row_too_long"]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        Text(glob=str(tmp_path)).units()
