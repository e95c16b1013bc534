"""Saved pages: one document each, other files passed over, bad ones counted."""

import gzip

import pytest

from raylm.core.errors import DataError
from raylm.data.sources.html import Html

PAGE = "<html><body><nav>menu</nav><main><p>The text of page {}.</p></main></body></html>"


def test_pages_are_read_and_other_files_are_not(tmp_path):
    (tmp_path / "a.html").write_text(PAGE.format("one"))
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(PAGE.format("two").encode()))
    (tmp_path / "c.html").write_text("<html></html>")
    (tmp_path / "d.html.gz").write_bytes(gzip.compress(PAGE.format("three").encode())[:-20])
    (tmp_path / "e.html").write_text(PAGE.format("x" * 1000))
    (tmp_path / "style.css").write_text("p {}")
    card = Html(glob=str(tmp_path), max_row_bytes=500)
    rows = [row for unit in card.units() for row in card.read(unit)]
    assert [row["text"] if isinstance(row, dict) else row.reason for row in rows] == [
        "The text of page one.",
        "The text of page two.",
        "no_main_text",
        "unreadable_file",
        "row_too_long",
    ]
    assert (rows[0]["start"], rows[0]["end"]) == (0, len(PAGE.format("one")))


def test_a_folder_without_pages_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no page is among the files"):
        Html(glob=str(tmp_path)).units()
