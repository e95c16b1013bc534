"""Length in characters, not bytes; both bounds belong to the range."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.prepare.filters.length import Length


def test_bounds():
    table = pa.table({"text": pa.array(["", "ü", "abc", "abcd"], pa.large_string())})
    keep, reasons = Length(min_chars=1, max_chars=3).judge(table)
    assert keep.tolist() == [False, True, True, False]
    assert list(reasons) == ["too_short", "", "", "too_long_text"]
    assert Length(min_chars=1).judge(table).keep.tolist() == [False, True, True, True]
    with pytest.raises(ValidationError, match="no length lies between"):
        Length(min_chars=4, max_chars=3)
