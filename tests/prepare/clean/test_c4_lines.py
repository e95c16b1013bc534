"""Each of C4's line rules, its switch and its count."""

from raylm.prepare.clean.c4_lines import C4Lines

LINES = [
    "  This line stays as it is.  ",
    "",
    "This one has no end",
    "This one goes on...",
    "Too short.",
    'He said that "it" is "good"',
    "Please enable JavaScript first.",
    "Read our Privacy Policy first.",
    "x" * 1001 + " is a word.",
    "A cited fact.[12][edit]",
    "Cited with a space. [1]",
]


def test_each_rule_and_its_count():
    texts, counts = C4Lines().clean(["\n".join(LINES), "nothing stays"])
    assert texts == ['This line stays as it is.\nHe said that "it" is "good"\nA cited fact.', ""]
    assert counts == {
        "c4_citations": 3,
        "c4_few_words": 1,
        "c4_javascript": 1,
        "c4_long_word": 1,
        "c4_no_end": 4,
        "c4_policy": 1,
    }


def test_switches():
    def kept(line, **fields):
        return C4Lines(**fields).clean([line]).texts[0]

    assert kept("This one has no end", terminal_punctuation=False) == "This one has no end"
    assert kept("Too short.", min_words=2) == "Too short."
    assert kept("Please enable JavaScript first.", javascript=False) != ""
    assert kept("Read our Privacy Policy first.", policies=False) != ""
    assert kept("A cited fact[1] stays here.", citations=False) == "A cited fact[1] stays here."
    assert kept("A long word is here.", max_word_chars=3) == ""


def test_any_line_break_ends_a_line():
    assert C4Lines().clean(["One line is here.\r\nno end\u2028Two lines are here."]).texts == [
        "One line is here.\nTwo lines are here."
    ]
