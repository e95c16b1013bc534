# ruff: noqa: RUF001
"""Repair: the same texts as ftfy itself, and only damage counted."""

import random

import ftfy
from ftfy.badness import is_bad

from raylm.prepare.clean.repair import Repair, _config, _is_mojibake

DAMAGED = {
    "schÃ¶n": "schön",
    "It\u00e2\u20ac\u2122s": "It\u2019s",
    "l\u2019humanitÃ©": "l\u2019humanité",
    "AT&amp;T &lt;b&gt; &eacute;": "AT&T <b> é",
    "\x1b[36mblue\x1b[0m": "blue",
    "bell\x07 and null\x00": "bell and null",
    "smart \x93quotes\x94": "smart \u201cquotes\u201d",
    "\ufeffmark": "mark",
}
WHOLE = [
    "plain text",
    "l\u2019été \u201cquoted\u201d",
    "ﬁ ｆｕｌｌ",
    "a & b; c &d;e",
    "a\r\nb\tc",
    "<p>AT&amp;T</p>",
    "日本語",
    "",
]


def test_damage_is_undone_and_counted():
    made = Repair().clean(list(DAMAGED))
    assert made.texts == list(DAMAGED.values())
    assert made.counts == {"encoding": 4, "entities": 1, "terminal_escapes": 1, "control_characters": 2}


def test_what_is_whole_stays():
    made = Repair().clean(WHOLE)
    assert made.texts == WHOLE and made.counts == {}


def test_entities_only_where_wanted():
    assert Repair(entities=False).clean(["a &amp; b"]).texts == ["a &amp; b"]


def test_one_damaged_line_does_not_touch_the_others():
    text = "naïve café\nschÃ¶n\n\x85l\u2019été\n"
    assert Repair().clean([text]).texts == ["naïve café\nschön\n\u2026l\u2019été\n"]


def test_equal_to_ftfy_on_random_texts():
    draw = random.Random(0)
    words = [
        "schön",
        "\u201cso\u201d",
        "naïve",
        "plain",
        "&amp;",
        "Ã©",
        "\x07",
        "â\u20ac\u2122",
        "œ",
        "Â ",
        "à\xa0",
        "Б",
        "日",
        "€5",
        "x²",
    ]
    for number in range(3000):
        text = "".join(draw.choice(words) + draw.choice([" ", "", "\n"]) for _ in range(draw.randint(1, 12)))
        if number % 3 == 0:
            # mojibake as it is made: UTF-8 read as Windows-1252
            text = text.encode().decode("sloppy-windows-1252")
        assert _is_mojibake(text) or not is_bad(text), repr(text)
        # ftfy keeps entities from the line of the first `<` on, Repair in the whole text: none here
        assert Repair().clean([text]).texts == [ftfy.fix_text(text, _config(True))], repr(text)
