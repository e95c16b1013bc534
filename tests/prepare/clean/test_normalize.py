# ruff: noqa: RUF001
"""Normalize: each rule by hand, all of them together idempotent, hostile texts in linear time."""

import random

import pytest

from raylm.prepare.clean.normalize import Normalize
from tests.hostile import ends


@pytest.mark.parametrize(
    ("card", "text", "wanted", "rule"),
    [
        ({}, "a\r\nb\rc\u2028d\x85e\ff", "a\nb\nc\nd\ne\nf", "line_ends"),
        ({}, "a\x00b\x1bc\x7fd\x9be\tf", "abcde\tf", "control_characters"),
        ({}, "zero\u200bwidth so\u00adft \ufeffmark", "zerowidth soft mark", "invisible"),
        ({}, "cafe\u0301", "caf\u00e9", "form"),
        ({"form": "NFKC"}, "ﬁ ①", "fi 1", "form"),
        ({"form": "NFD"}, "é", "e\u0301", "form"),
        ({"quotes": True}, "\u201cit\u2019s\u201d", '"it\'s"', "quotes"),
        ({"spaces": True}, "    if x:  y \u00a0\t z", "    if x: y z", "spaces"),
        ({}, "a  \nb\t\n", "a\nb\n", "line_tails"),
        ({}, "a\n\n\n\n\nb", "a\n\n\nb", "blank_lines"),
        ({"max_blank_lines": 0}, "a\n\nb\nc", "a\nb\nc", "blank_lines"),
    ],
)
def test_one_rule(card, text, wanted, rule):
    made = Normalize(**card).clean([text])
    assert made.texts == [wanted]
    assert made.counts == {rule: 1}


def test_what_is_in_order_stays():
    # joiners of Persian and of an emoji family, curly quotes, indentation, a form that NFKC would fold
    texts = ["می\u200cخواهم", "👩\u200d👧", "\u201cit\u2019s\u201d", "def f():\n    return  1\n", "x² ﬁ", ""]
    made = Normalize().clean(texts)
    assert made.texts == texts and made.counts == {}
    assert Normalize(form="none").clean(["e\u0301"]).texts == ["e\u0301"]


def test_again_changes_nothing():
    draw = random.Random(1)
    pieces = ["a", " ", "\n", "\r", "\t", "\u00a0", "\u200b", "e\u0301", "\u2028", "\x00", "\u201d", "\u3000", "\x85", "\u00ad"]
    for form in ("NFC", "NFD", "NFKC", "NFKD", "none"):
        card = Normalize(form=form, spaces=True, quotes=True, max_blank_lines=1)
        once = card.clean(["".join(draw.choices(pieces, k=30)) for _ in range(500)]).texts
        again = card.clean(once)
        assert again.texts == once and again.counts == {}


def test_linear_on_hostile_texts():
    with ends():
        Normalize(spaces=True).clean(
            ["a" + " " * 1_000_000 + "b", "\n" * 1_000_000, "\t \u00a0" * 300_000 + "x", "\r" * 1_000_000]
        )
