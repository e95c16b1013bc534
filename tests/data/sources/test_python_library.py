"""The embedded input: deterministic, capped, and byte ranges that point at the text."""

import pytest

from raylm.core.errors import DataError
from raylm.data.sources import stdlib
from raylm.data.sources.python_library import PythonLibrary


def _read(card):
    return [row for unit in card.units() for row in card.read(unit)]


def test_a_cap_holds_and_takes_a_spread_of_modules():
    card = PythonLibrary(max_bytes=1_500_000)
    rows = _read(card)
    size = sum(len(row["text"].encode()) for row in rows)
    assert 1_000_000 < size <= 1_500_000 and len(card.units()) >= 2
    assert rows == _read(card) and len({row["id"] for row in rows}) == len(rows)
    assert len({row["source"].split("/")[1] for row in rows if "/" in row["source"]}) > 10


def test_parts_can_be_switched_off():
    assert {row["source"] for row in _read(PythonLibrary(docstrings=False, sources=False))} == {"pydoc_data.topics"}
    with pytest.raises(DataError, match="nothing is left to read"):
        PythonLibrary(topics=False, docstrings=False, sources=False).units()


def test_byte_ranges_hold_the_docstrings():
    rows = _read(PythonLibrary(topics=False, sources=False, max_bytes=200_000))
    path = {span.source: span.path for span in stdlib.modules()}
    for row in rows[:50]:
        with open(path[row["source"]], "rb") as file:
            content = file.read()[row["start"] : row["end"]].decode()
        assert row["text"].rstrip().split()[-1][:5] in content and content[-1] in "\"'"
