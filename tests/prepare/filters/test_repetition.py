"""Gopher's line rules on hand-counted texts."""

import pyarrow as pa

from raylm.prepare.filters.repetition import Repetition


def _reasons(*texts, **fields):
    return list(Repetition(**fields).judge(pa.table({"text": pa.array(texts, pa.large_string())})).reasons)


def test_hand_counted():
    # 10 lines: 3 duplicates are a share of 0.3, which is allowed; 4 are not
    unique = [f"a line that is longer and stands once {at}" for at in range(10)]
    allowed = "\n".join([*unique[:6], "x", "x", "x", "x"])
    refused = "\n".join([*unique[:5], "x", "x", "x", "x", "x"])
    # one duplicate of two long lines is half of the characters
    chars = "\n".join(["y" * 100, "y" * 100, "a", "b", "c"])
    assert _reasons(allowed, refused, chars, "one line") == ["", "duplicate_lines", "duplicate_line_chars", ""]


def test_limits_are_fields():
    assert _reasons("a\na", max_line_share=0.5, max_char_share=1.0) == [""]
    assert _reasons("a\na") == ["duplicate_lines"]
