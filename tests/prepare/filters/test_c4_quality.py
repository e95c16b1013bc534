"""C4's rules about documents count only lines that its rules about lines keep."""

import pyarrow as pa

from raylm.prepare.clean.c4_lines import C4Lines
from raylm.prepare.filters.c4_quality import C4Quality
from raylm.prepare.score.statistics import Statistics

FIVE = "\n".join(f"This is sentence number {at}." for at in range(5))


def reasons(*texts, **fields):
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    for name, column in Statistics(families=("c4",)).score(table).items():
        table = table.append_column(name, pa.array(column))
    return list(C4Quality(**fields).judge(table).reasons)


def test_each_rule():
    four = FIVE[: FIVE.rindex("\n")]
    assert reasons(FIVE, four) == ["", "c4_too_few_sentences"]
    assert reasons(FIVE + "\nA Lorem Ipsum line here.", FIVE + "\nA line {with} it.") == ["c4_lorem_ipsum", "c4_curly_bracket"]
    # lines without an end mark or of two words are cut before anybody looks into them
    assert reasons(FIVE + "\nlorem ipsum and so on", FIVE + "\n{ }.", four + "\nNot ended sentence") == [
        "",
        "",
        "c4_too_few_sentences",
    ]
    assert reasons(FIVE, min_long_lines=1) == ["c4_few_long_lines"]
    assert reasons(FIVE + "\nA line {with} lorem ipsum.", lorem_ipsum=False, curly_bracket=False) == [""]


def test_without_the_rule_about_ends():
    bare = FIVE.replace(".", "")
    assert reasons(bare, bare + "\nlorem ipsum and so on", terminal_punctuation=False) == ["", "c4_lorem_ipsum"]
    assert reasons(bare) == ["c4_too_few_sentences"]


def test_same_verdict_before_and_after_the_lines_are_cut():
    text = FIVE + "\nNo end here\nShort.\nPlease enable Javascript now.\nSee our cookie policy here.\nCited well enough.[1]"
    cut = C4Lines().clean([text]).texts[0]
    made = Statistics().score(pa.table({"text": [text, cut]}))
    assert made["c4_num_sentences"].tolist() == [6, 6] == [6, made["num_sentences"][1]]
    assert made["c4_kept_line_share"].tolist() == [0.6000000238418579, 1.0]
