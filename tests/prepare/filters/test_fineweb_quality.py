"""FineWeb's rules on small texts, one that fails each."""

import pyarrow as pa

from raylm.prepare.filters.fineweb_quality import FinewebQuality
from raylm.prepare.score.statistics import Statistics

GOOD = "A line that is certainly longer than thirty characters ends here."


def reasons(*texts, **fields):
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    for name, column in Statistics(families=("fineweb",)).score(table).items():
        table = table.append_column(name, pa.array(column))
    assert set(FinewebQuality.reads) < set(table.column_names)
    return list(FinewebQuality(**fields).judge(table).reasons)


def test_each_rule():
    open_lines = GOOD[:-1]
    short = "\n".join([GOOD, "One.", "Two.", "Three."])
    twice = f"{GOOD}\n{GOOD}"
    listed = GOOD + "\n" * 6
    assert reasons(GOOD, "", " \n ", open_lines, short, twice, listed) == [
        *("", "fineweb_empty", "fineweb_empty", "fineweb_few_end_marks", "fineweb_short_lines", "fineweb_dup_lines"),
        "fineweb_list",
    ]


def test_limits_are_fields():
    assert reasons(f"{GOOD}\n{GOOD}", max_dup_line_char_share=0.5) == [""]
    assert reasons(GOOD[:-1], min_end_punct_line_share=0) == [""]
