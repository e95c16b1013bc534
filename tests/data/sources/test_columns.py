"""Rows decided by column: the same documents, ids and reasons as `read_row` gives, row by row."""

import json

import pyarrow as pa
import pytest

from raylm.data.records import Rejected, read_row
from raylm.data.sources.columns import batch_rows, documents_of, scalars

TEXTS = ["good", "", None, " \t\n\u2003", "\x1c\x1d", "ünïcode", "x" * 100, "\u200b", "\x85\xa0"]
META = {
    "url": ["http://a", None, "ü", "", "a", "b", "c", "d", "e"],
    "n": [1, 2, None, 2**60, 0, -1, 5, 6, 7],
    "f": [0.5, None, float("nan"), float("inf"), 1e300, -0.0, 1.0, 2.0, 3.0],
    "ok": [True, False, None, True, True, True, True, True, True],
    "deep": [[1]] * 9,
}


def _both(raw, text_column=None, max_row_bytes=1 << 20):
    table, lost = documents_of(raw, text_column, "f", range(7, 7 + len(raw)), max_row_bytes)
    rows = [read_row(row, text_column, "f", at + 7, at + 8) for at, row in enumerate(raw.to_pylist())]
    assert table.to_pylist() == [row for row in rows if isinstance(row, dict)]
    assert lost == [row for row in rows if isinstance(row, Rejected)]
    return table, lost


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_string_type_is_read_as_rows_are(kind):
    texts = pa.array(TEXTS, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(TEXTS, kind)
    table, lost = _both(pa.record_batch({"text": texts, **META}))
    # a zero-width space is no space, for Python and for Arrow
    assert table["text"].to_pylist() == ["good", "ünïcode", "x" * 100, "\u200b"] and {row.reason for row in lost} == {"empty"}
    assert json.loads(table["meta"][0].as_py()) == {"f": 0.5, "n": 1, "ok": True, "url": "http://a"}


def test_other_types_missing_columns_and_named_ones():
    assert {row.reason for row in _both(pa.record_batch({"text": pa.array([1, None, 3])}))[1]} == {"text_is_no_string", "empty"}
    assert _both(pa.record_batch({"body": ["x"], "n": [1]}))[1][0].columns == ("body", "n")
    raw = pa.record_batch({"body": ["x"], "prompt": ["q"], "url": ["u"]})
    assert _both(raw, "body")[0]["meta"].to_pylist() == ['{"prompt":"q","url":"u"}']


def test_structured_rows_between_plain_ones():
    turns = [{"role": "user", "content": "hi"}]
    raw = pa.record_batch({"messages": pa.array([turns, None, turns]), "text": [None, "plain", None], "url": ["a", "b", "c"]})
    table, _ = _both(raw)
    assert table["text"].to_pylist() == ["hi", "plain", "hi"] and table["record"].null_count == 1
    assert table["meta"].to_pylist() == ['{"url":"a"}', '{"url":"b"}', '{"url":"c"}']
    # a file that has the column, and no row that fills it, is read by column
    assert _both(pa.record_batch({"messages": pa.nulls(1), "text": ["x"]}))[0]["text"].to_pylist() == ["x"]


def test_bytes_that_are_no_utf8_cost_their_row_and_nothing_else():
    texts = pa.array([b"good", b"\xff\xfe", b"x"]).view(pa.string())
    url = pa.array([b"a", b"b", b"\xff"]).view(pa.string())
    table, lost = documents_of(pa.record_batch({"text": texts, "url": url}), None, "f", range(3), 1 << 20)
    assert table["text"].to_pylist() == ["good", "x"] and lost == [Rejected("invalid_utf8", "f:1")]
    assert table["meta"].to_pylist() == ['{"url":"a"}', '{"url":"\ufffd"}']
    table, lost = documents_of(pa.record_batch({"prompt": texts}), None, "f", range(3), 1 << 20)
    assert table["text"].to_pylist() == ["good", "x"] and lost == [Rejected("invalid_utf8", "f:1")]


def test_long_rows_are_dropped_plain_and_structured():
    table, lost = documents_of(pa.record_batch({"text": ["ü" * 10, "ü" * 11]}), None, "f", range(2), 20)
    assert table.num_rows == 1 and lost == [Rejected("row_too_long", "f:1")]
    _, lost = documents_of(pa.record_batch({"prompt": ["x" * 100]}), None, "f", range(1), 100)
    assert lost == [Rejected("row_too_long", "f:0")]


def test_only_what_documents_are_made_of_is_read():
    fields = pa.schema([("text", pa.string()), ("n", pa.int8()), ("deep", pa.list_(pa.int8())), ("day", pa.date32())])
    assert scalars(fields, None) == ["text", "n"] and scalars(fields, "n") == ["text", "n"]
    assert scalars(pa.schema([("prompt", pa.string())]), None) is None
    assert batch_rows(10**6, 10**6) == 1000 and batch_rows(100, 100 << 20) == 16
    assert batch_rows(1, 1 << 40) == 1
