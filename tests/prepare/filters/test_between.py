"""Ranges over numbers, sets over strings; what has no value is dropped."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.core.errors import DataError
from raylm.prepare.filters.between import Between

TABLE = pa.table(
    {
        "score": pa.array([0.1, 0.3, 0.5, None], pa.float32()),
        "count": pa.array([1, 2, 3, 4], pa.int32()),
        "language": pa.array(["en", "de", "fr", None]),
    }
)


def test_range():
    # both bounds belong to the range, also where float32 is not the number as written
    keep, reasons = Between(column="score", min=0.3, max=0.4).judge(TABLE)
    assert keep.tolist() == [False, True, False, False]
    assert list(reasons) == ["score_too_low", "", "score_too_high", "score_too_low"]
    assert Between(column="score", max=0.1).judge(TABLE).keep.tolist() == [True, False, False, False]
    assert Between(column="count", min=2, max=3).judge(TABLE).keep.tolist() == [False, True, True, False]


def test_strings():
    card = Between(column="language", any_of=("en", "fr"))
    keep, reasons = card.judge(TABLE)
    assert keep.tolist() == [True, False, True, False]
    assert list(reasons) == ["", "language_other", "", "language_other"]
    assert card.reads == ("language",)


@pytest.mark.parametrize(
    "fields", [{}, {"min": 1.0, "any_of": ("x",)}, {"min": 2.0, "max": 1.0}], ids=["nothing", "both", "empty range"]
)
def test_invalid_options_are_refused(fields):
    with pytest.raises(ValidationError, match="between"):
        Between(column="score", **fields)


def test_missing_or_of_the_other_type():
    with pytest.raises(DataError, match="no column 'x'"):
        Between(column="x", min=0).judge(TABLE)
    with pytest.raises(DataError, match="no numbers"):
        Between(column="language", min=0).judge(TABLE)
    with pytest.raises(DataError, match="no column of strings"):
        Between(column="score", any_of=("en",)).judge(TABLE)


def test_keys_of_the_metadata():
    metas = ['{"metadata.score":0.5,"kind":"a"}', '{"metadata.score":2}', None, '{"meta":"{\\"score\\": 7}"}']
    table = pa.table({"meta": pa.array(metas, pa.large_string())})
    assert Between(column="metadata.score", max=1.0).judge(table).keep.tolist() == [True, False, False, False]
    assert Between(column="meta.score", min=5.0).judge(table).keep.tolist() == [False, False, False, True]
    assert Between(column="meta.kind", any_of=("a",)).judge(table).keep.tolist() == [True, False, False, False]
    assert Between(column="meta.none", any_of=("a",)).judge(table).keep.tolist() == [False] * 4
