"""Facts hidden in long texts."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from raylm.core.artifact import Tokens
from raylm.core.errors import DataError
from raylm.data.shards import Rows
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.long_context import LongContext, Needle, _hidden
from tests.evaluate.fakes import Says
from tests.model.tiny import tiny_tokenizer
from tests.rows import make_rows

TEXTS = [f"Module {at} has a class. It is a type of number {at}; nobody knows more of it. " * 4 for at in range(40)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    at = tmp_path_factory.mktemp("job")
    make_rows(at, "tokens", Tokens, [{"tokens": tiny_tokenizer(300).encode(text)} for text in TEXTS], held_out=39)
    return Rows.open(str(at / "tokens"), "held_out")


def asked(card, rows, answer, room=None):
    seen = []

    def answered(prompts, max_tokens):
        seen.extend(prompts)
        return [answer(turns[0]["content"]) for turns in prompts]

    lm = LM(rows.uri + "/tokenizer", answerer=Says(answered, room=room, reads_tokens=False))
    return card.grade(lm, rows), seen, lm


def test_texts_have_their_length_and_the_fact_its_depth(rows):
    card = LongContext(rows="tokens", lengths=[400, 800], depths=[0.0, 0.5, 1.0], samples=1)
    found, seen, lm = asked(card, rows, lambda text: "It is " + ", ".join(re.findall(r"number of \w+ is (\d{7})", text)))
    assert means(found) == {"long_context": 1.0}
    assert [(one.facts["length"], one.facts["depth"]) for one in found[:4]] == [
        ("400", "0"),
        ("400", "0.5"),
        ("400", "1"),
        ("800", "0"),
    ]
    for one, turns in zip(found, seen, strict=True):
        size, text = len(lm.rendered(turns)), turns[0]["content"]
        body = text.split("---")[1]
        assert int(one.facts["length"]) - 60 <= size <= int(one.facts["length"])
        assert body.index("The secret number") / len(body) == pytest.approx(float(one.facts["depth"]), abs=0.12)
    again, _, _ = asked(card, rows, lambda text: "I do not know, 1234567 perhaps")
    assert [one.id for one in again] == [one.id for one in found] and means(again) == {"long_context": 0.0}


def test_several_facts_and_a_share_of_them(rows):
    card = LongContext(rows="tokens", lengths=[600], depths=[0.1], samples=2, num_needles=4)
    found, seen, _ = asked(card, rows, lambda text: " ".join(re.findall(r"is (\d{7})", text)[:3]))
    assert [one.values["long_context"] for one in found] == [0.75, 0.75]
    assert seen[0][0]["content"].count("The secret number of") == 4 and seen[0] != seen[1]


def test_lengths_without_room_are_said(rows):
    card = LongContext(rows="tokens", lengths=[400, 800], depths=[0.5], samples=1)
    found, _, lm = asked(card, rows, lambda text: "", room=500)
    assert len(found) == 1 and lm.notes() == ["texts of 800 tokens do not fit: it has room for 436"]
    with pytest.raises(DataError, match="has room for 36 tokens"):
        asked(card, rows, lambda text: "", room=100)
    with pytest.raises(DataError, match="no text of 100000 tokens can be made: the haystack has"):
        asked(LongContext(rows="tokens", lengths=[100_000]), rows, lambda text: "")
    with pytest.raises(ValidationError, match="either"):
        LongContext()


def test_a_fact_stands_behind_the_sentence_that_ends_before_its_place():
    needle = Needle("Oslo", "1234567")
    assert _hidden("One. Two. Three.", [needle], [0.4]) == "One. The secret number of Oslo is 1234567. Two. Three."
    assert _hidden("One. Two.", [needle], [0.0]).startswith("The secret number")
    assert _hidden("One. Two.", [needle], [1.0]).rstrip().endswith("1234567.")


def test_the_report_shows_a_table_of_lengths_and_depths(rows):
    card = LongContext(rows="tokens", lengths=[400, 800], depths=[0.0, 1.0], samples=1)
    found, *_ = asked(card, rows, lambda text: "", room=500)
    heading, html = card.section({"policy": found})
    assert heading == "long_context: found by length and depth" and html.count("0.00") == 2 and html.count(">-<") == 2
