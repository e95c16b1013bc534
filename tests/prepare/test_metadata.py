"""Values of metadata by dotted names, for documents and for the columns of sweeps."""

import pyarrow as pa
import pytest

from raylm.data.records import read_row, schema
from raylm.prepare.metadata import column_of, value_of, with_columns
from raylm.prepare.select.buckets import Buckets
from raylm.prepare.select.top import Top
from tests.prepare.corpora import corpus_of, left


def test_names():
    meta = '{"metadata.url":"u","meta":"{\\"a\\": {\\"b\\": 1}}","plain":2,"broken":"{x"}'
    assert value_of(meta, "metadata.url") == value_of(meta, "url") == "u"
    assert value_of(meta, "meta.a.b") == 1 and value_of(meta, "meta.plain") == 2 and value_of(meta, "plain") == 2
    for name in ("meta.a.c", "broken.x", "none", "plain.x", "meta.plain.x"):
        assert value_of(meta, name) is None
    assert value_of(None, "url") is None


def test_columns_of_numbers_and_of_strings():
    assert column_of(['{"a.b":1}', None, '{"a.b":0.5}'], "a.b").to_pylist() == [1.0, None, 0.5]
    assert column_of(['{"a.b":1}', '{"a.b":"x"}', '{"a.b":true}'], "a.b").to_pylist() == ["1", "x", "true"]
    table = pa.table({"meta": ['{"a.b":1}'], "c.d": [5]})
    assert with_columns(table, ("a.b", "c.d", "e", None)).to_pylist() == [{"meta": '{"a.b":1}', "c.d": 5, "a.b": 1.0}]


@pytest.mark.ray
def test_sweeps_choose_by_them(tmp_path, workers):
    rows = [{"text": f"t{at}", "metadata": {"score": at / 10}} for at in range(6)] + [{"text": "none"}]
    table = pa.Table.from_pylist([read_row(row, None, "s", at, at + 1) for at, row in enumerate(rows)], schema=schema())
    top = Top(column="metadata.score", num_documents=2)
    assert left(corpus_of(tmp_path / "top", table, 2, workers), top) == ["t4", "t5"]
    buckets = Buckets(column="metadata.score", edges=[0.25], shares=[0, 1])
    assert left(corpus_of(tmp_path / "buckets", table, 2, workers), buckets) == ["t3", "t4", "t5"]
