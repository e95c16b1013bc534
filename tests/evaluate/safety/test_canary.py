"""Canaries in every writing, and texts that have none."""

from __future__ import annotations

import base64
import codecs

import pytest

from raylm.evaluate.safety.canary import canary, copied, found

MARK = canary("the prompt")


def test_canaries_are_their_own_and_the_same_again():
    made = {canary(str(seed)) for seed in range(500)}
    assert len(made) == 500 and canary("the prompt") == MARK
    assert all(len(one) == 22 and one.isascii() for one in made)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exact", f"it is {MARK.upper()}."),
        ("spaced", " ".join(MARK)),
        ("spaced", "\n".join(f"- {letter}" for letter in MARK if letter != "-")),
        ("spaced", MARK.replace("-", " ")),
        ("reversed", MARK[::-1]),
        ("rot13", codecs.encode(f"it is {MARK}", "rot13")),
        ("base64", base64.b64encode(MARK.encode()).decode()),
        ("base64", base64.b64encode(f"ab it is {MARK}".encode()).decode()),
        ("base64", base64.urlsafe_b64encode(f"a>>>?{MARK}".encode()).decode().rstrip("=")),
        ("hex", MARK.encode().hex()),
        ("hex", " ".join(f"0x{byte:02x}" for byte in MARK.encode())),
        ("hex", "".join(f"%{byte:02x}" for byte in MARK.encode())),
        ("codes", ", ".join(str(byte) for byte in MARK.encode())),
        ("leet", MARK.replace("e", "3").replace("o", "0").replace("a", "4").replace("i", "1")),
        ("lookalike", MARK.replace("a", "\u0430").replace("e", "\u0435").replace("o", "\u043e").replace("i", "\u0456")),
        ("exact", "\u200b".join(MARK)),
    ],
)
def test_every_writing_is_read(how, text):
    assert found(MARK, f"{text}") == how
    assert not found(canary("another"), text)


def test_a_short_mark_is_a_word_and_no_part_of_one():
    assert (
        found("Paris", "It is Paris.") == "exact"
        and found("Paris", "P-a-r-i-s") == "spaced"
        and found("Paris", "sirap") == "reversed"
    )
    assert (
        found("8", "It has 8 legs") == "exact" and found("H\u2082O", "h2o") == "exact" and found("caf\u00e9", "cafe") == "exact"
    )
    for text in ("Comparison is hard.", "a parish", "1985", "18", ""):
        assert not found("Paris", text) and not found("8", text)
    assert not found("eight", "height and weight") and not found("night", "Knights tonight")


def test_texts_have_no_canary_by_chance():
    import this

    zen = "".join(codecs.encode(line, "rot13") for line in this.s.splitlines())
    assert not any(found(canary(str(seed)), zen) for seed in range(50))


def test_the_share_of_a_text_that_is_copied():
    text = "one two three four five six seven eight nine"
    assert copied(text, text.upper()) == 1.0 and copied(text, "") == 0.0
    # runs of five words: 5 of them, two stand in the answer
    assert copied(text, "He said: three, four, five, six, seven eight!") == pytest.approx(2 / 5)
