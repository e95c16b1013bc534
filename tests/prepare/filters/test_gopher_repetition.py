"""Gopher's repetition rules on hand-counted texts, through the statistics they read."""

import pyarrow as pa

from raylm.prepare.filters.gopher_repetition import GopherRepetition
from raylm.prepare.score.statistics import Statistics


def reasons(*texts, **fields):
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    for name, column in Statistics(families=("gopher",)).score(table).items():
        table = table.append_column(name, pa.array(column))
    assert set(GopherRepetition.reads) < set(table.column_names)
    return list(GopherRepetition(**fields).judge(table).reasons)


def test_lines():
    # 10 lines: 3 duplicates are a share of 0.3, which is allowed; 4 are not
    unique = [f"{at}line{at} that{at} is{at} long{at} and{at} stands{at} once{at}" for at in range(10)]
    allowed = "\n".join([*unique[:6], "x", "x", "x", "x"])
    refused = "\n".join([*unique[:5], "x", "x", "x", "x", "x"])
    # one duplicate of two long lines is half of the characters
    chars = "\n".join(["y" * 100, "y" * 100, "a", "b", "c"])
    assert reasons(allowed, refused, chars, " ".join(unique[:4])) == ["", "gopher_dup_lines", "gopher_dup_line_chars", ""]


def test_paragraphs():
    few = "\n\n".join(["one two", "three four", "five six", "seven eight nine ten eleven", "one two"])
    assert reasons(few, max_top_gram_char_shares=(1, 1, 1)) == [""]
    assert reasons("a b\n\nc d\n\na b\n\na b") == ["gopher_dup_paragraphs"]
    assert reasons("long one here\n\na\n\nb\n\nlong one here") == ["gopher_dup_paragraph_chars"]


def test_ngrams():
    filler = " ".join(f"filler{at}" for at in range(10))
    # `ab cd` stands 5 times: 25 of 119 characters
    assert reasons(" ".join(f"ab cd filler{at}" for at in range(5)) + " " + filler[:40]) == ["gopher_top_2gram"]
    run = "a1 b2 c3 d4 e5"
    assert reasons(f"{run} x {run} y", max_top_gram_char_shares=(1, 1, 1)) == ["gopher_dup_5gram"]
    loose = {"max_top_gram_char_shares": (1, 1, 1), "max_dup_gram_char_shares": (1, 1, 1, 1, 1, 1)}
    assert reasons(f"{run} x {run} y", **loose) == [""]
