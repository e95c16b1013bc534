"""Words by hand: signs, apostrophes, upper case, scripts without spaces; a hostile text in linear time."""

from raylm.prepare.words import words_of
from tests.hostile import ends


def test_words():
    assert words_of("Don\u2019t STOP-me; 3.14 snake_case 'quoted'") == [
        "don't",
        "stop",
        "me",
        "3",
        "14",
        "snake",
        "case",
        "quoted",
    ]
    assert words_of("日本 한국 абв, É") == ["日", "本", "한", "국", "абв", "é"]
    assert words_of("x+1 = -5, a-b and/or 3 - 2*(4/5) \u2264 c++") == [
        *("x", "+", "1", "=", "-", "5", "a", "b", "and", "or", "3", "-", "2", "*", "4", "/", "5", "\u2264", "c", "+", "+"),
    ]
    assert words_of("") == words_of("... !?") == []


def test_linear():
    with ends():
        words_of("a'" * 500_000 + "'" * 500_000)
