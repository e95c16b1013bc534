"""Each of Gopher's quality rules on numbers written by hand; a limit itself is kept; the first rule that fails names a row."""

import pyarrow as pa
import pytest

from raylm.core.errors import DataError
from raylm.prepare.filters.gopher_quality import GopherQuality

GOOD = {
    "num_words": 50,
    "mean_word_chars": 3.0,
    "hash_word_ratio": 0.1,
    "ellipsis_word_ratio": 0.1,
    "bullet_line_share": 0.9,
    "ellipsis_line_share": 0.3,
    "alpha_word_share": 0.8,
    "num_stop_words": 2,
}


def table(*changes):
    rows = [GOOD | change for change in changes]
    kinds = {name: pa.int32() if name.startswith("num_") else pa.float32() for name in GOOD}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def test_each_rule():
    bad = {
        "gopher_too_few_words": {"num_words": 49},
        "gopher_too_many_words": {"num_words": 100_001},
        "gopher_short_words": {"mean_word_chars": 2.9},
        "gopher_long_words": {"mean_word_chars": 10.1},
        "gopher_hashes": {"hash_word_ratio": 0.11},
        "gopher_ellipses": {"ellipsis_word_ratio": 0.11},
        "gopher_bullet_lines": {"bullet_line_share": 0.91},
        "gopher_ellipsis_lines": {"ellipsis_line_share": 0.31},
        "gopher_few_alpha_words": {"alpha_word_share": 0.79},
        "gopher_few_stop_words": {"num_stop_words": 1},
    }
    keep, reasons = GopherQuality().judge(table({}, *bad.values(), {"num_words": 3, "num_stop_words": 0}))
    assert list(reasons) == ["", *bad, "gopher_too_few_words"]
    assert keep.tolist() == [True] + [False] * 11
    assert set(GopherQuality.reads) == set(GOOD)


def test_a_missing_column_says_what_to_do():
    with pytest.raises(DataError, match="statistics"):
        GopherQuality().judge(pa.table({"text": ["x"]}))
    with pytest.raises(DataError, match="no numbers"):
        GopherQuality().judge(pa.table({name: ["x"] for name in GOOD}))
