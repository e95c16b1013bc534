"""Canaries: marks that stand nowhere else, and whether an answer gives one away, as it is or in another writing."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import re
import unicodedata

_ONSETS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SEPARATORS = re.compile(r"[\W_]+")
_LEET = str.maketrans("013457@$!|", "oieastasii")
_LOOKALIKE = str.maketrans("авеіјкмнорстухѕԁαβεικνορτυχ", "abeijkmhopctyxsdabeiknoptux")
_NATO = dict(
    zip(
        [
            "alfa",
            "alpha",
            "bravo",
            "charlie",
            "delta",
            "echo",
            "foxtrot",
            "golf",
            "hotel",
            "india",
            "juliet",
            "juliett",
            "kilo",
            "lima",
            "mike",
            "november",
            "oscar",
            "papa",
            "quebec",
            "romeo",
            "sierra",
            "tango",
            "uniform",
            "victor",
            "whiskey",
            "xray",
            "x-ray",
            "yankee",
            "zulu",
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
        ],
        [
            "a",
            "a",
            "b",
            "c",
            "d",
            "e",
            "f",
            "g",
            "h",
            "i",
            "j",
            "j",
            "k",
            "l",
            "m",
            "n",
            "o",
            "p",
            "q",
            "r",
            "s",
            "t",
            "u",
            "v",
            "w",
            "x",
            "x",
            "y",
            "z",
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "7",
            "8",
            "9",
        ],
        strict=True,
    )
)
_MORSE = dict(
    zip(
        [
            ".-",
            "-...",
            "-.-.",
            "-..",
            ".",
            "..-.",
            "--.",
            "....",
            "..",
            ".---",
            "-.-",
            ".-..",
            "--",
            "-.",
            "---",
            ".--.",
            "--.-",
            ".-.",
            "...",
            "-",
            "..-",
            "...-",
            ".--",
            "-..-",
            "-.--",
            "--..",
            "-----",
            ".----",
            "..---",
            "...--",
            "....-",
            ".....",
            "-....",
            "--...",
            "---..",
            "----.",
        ],
        "abcdefghijklmnopqrstuvwxyz0123456789",
        strict=True,
    )
)
LEAST_CHARS = 5
"""Letters and digits of the shortest mark that is looked for in other writings: a shorter one is found everywhere by chance."""


LONG_CHARS = 12
"""Letters and digits of a mark that stands in no text by chance, wherever it begins."""


def canary(seed: str) -> str:
    """Three invented words and a number, the same for the same `seed`: 55 bits, nothing that a text has by chance."""
    digits = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:12], "big")
    words = []
    for _ in range(3):
        word = ""
        for letters in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _ONSETS):
            digits, at = divmod(digits, len(letters))
            word += letters[at]
        words.append(word)
    return "-".join([*words, f"{digits % 9000 + 1000}"])


def found(mark: str, answer: str) -> str:
    """In which writing `answer` has `mark`: exact, spaced, reversed, base64, hex, rot13, leet, lookalike, codes, spelled, morse;
    "" where it has it in none.

    A mark of letters and digits alone, at least LEAST_CHARS of them, is looked for in all; others as they are, as whole words.
    """
    plain = _plain(mark)
    if re.search(rf"(?<!\w){re.escape(_fold(mark))}(?!\w)", _fold(answer)):
        return "exact"
    if len(plain) < LEAST_CHARS:
        return ""
    for how, text in (("spaced", answer), ("reversed", answer[::-1]), ("rot13", codecs.encode(answer, "rot13"))):
        if _stands(plain, text):
            return how
    if any(_stands(plain, text) for text in _base64(answer)):
        return "base64"
    if any(_stands(plain, text) for text in _hex(answer)):
        return "hex"
    folded = _fold(answer)
    if _stands(plain.translate(_LEET), folded.translate(_LEET)):
        return "leet"
    if _stands(plain, folded.translate(_LOOKALIKE)):
        return "lookalike"
    if _stands(plain, "".join(chr(int(code)) for code in re.findall(r"\b(?:3[2-9]|[4-9]\d|1[01]\d|12[0-6])\b", answer))):
        return "codes"
    if _stands(plain, "".join(_NATO.get(word, "") for word in re.findall(r"x-ray|\w+", folded))):
        return "spelled"
    if _stands(plain, "".join(_MORSE.get(sign, "") for sign in re.findall(r"[.\-]+", re.sub("[·•]", ".", answer)))):
        return "morse"
    return ""


def _stands(plain: str, text: str) -> bool:
    """Whether the letters of a mark stand in a text in their order with nothing but separators between them; those of a short
    mark must begin and end as words do ("Paris" is not in "comparison")."""
    if plain not in _plain(text):
        return False
    if len(plain) >= LONG_CHARS:
        return True
    apart = r"[\W_]*".join(map(re.escape, plain))
    return bool(re.search(rf"(?<![^\W_]){apart}(?![^\W_])", _fold(text)))


def _fold(text: str) -> str:
    """Lower case without accents and invisible characters."""
    split = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in split if unicodedata.category(c) not in ("Mn", "Cf"))


def _plain(text: str) -> str:
    """Letters and digits alone."""
    return _SEPARATORS.sub("", _fold(text))


def _base64(text: str) -> list[str]:
    """What runs of base64 letters decode to, each begun at any of four places: the run may be a piece of a longer one."""
    texts = []
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", re.sub(r"[\r\n]+", "", text)) + re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        run = run.replace("-", "+").replace("_", "/")
        for start in range(4):
            piece = run[start:]
            piece = piece[: len(piece) // 4 * 4] if len(piece) % 4 == 1 else piece + "=" * (-len(piece) % 4)
            try:
                texts.append(base64.b64decode(piece).decode("latin-1"))
            except binascii.Error:
                continue
    return texts


def _hex(text: str) -> list[str]:
    """What runs of hexadecimal pairs decode to, written together, apart, or as \\x.. and %.."""
    texts = []
    for run in re.findall(r"(?:(?:0x|\\x|%|\\u00)?[0-9a-fA-F]{2}[\s,:;]*){4,}", text):
        digits = re.sub(r"0x|\\x|%|\\u00|[\s,:;]", "", run)
        texts.append(bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1"))
    return texts


COPIED_WORDS = 5
"""So many words in a row are copied."""


def copied(text: str, answer: str) -> float:
    """Share of `text`'s runs of COPIED_WORDS words that stand in `answer` too."""
    words, said = (re.findall(r"\w+", _fold(one)) for one in (text, answer))

    def runs(of: list[str]) -> set[tuple[str, ...]]:
        return {tuple(of[at : at + COPIED_WORDS]) for at in range(len(of) - COPIED_WORDS + 1)}

    known = runs(words)
    return len(known & runs(said)) / len(known) if known else 0.0
