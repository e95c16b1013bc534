"""Look-up tables of the text kernels, from Python's Unicode data and the phrases of the rules."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np

from raylm.prepare.dedup.fuzzy.words import UNSPACED as UNSPACED_RANGES

# bits of one code point's entry in `Tables.kinds`
SPACE, ALPHA, WORD, DIGIT, UPPER, LOWER, STOP, BREAK = (1 << bit for bit in range(8))
# bits of one byte's entry in `Tables.bytes`, beside those above
PUNCTUATION, TRIGGER = 1 << 8, 1 << 9
# a letter of a script that is written without spaces: a word by itself
UNSPACED = 1 << 10

# what a phrase means to the rules: C4 drops its line, C4 and NeMo Curator count it, or only NeMo Curator does
JAVASCRIPT, CURLY, LOREM, POLICY, NOTICE = range(5)
# the last three stand for the three long cookie notices that NeMo Curator looks for word by word
_PHRASES = (
    ("javascript", "j", JAVASCRIPT),
    ("{", "{", CURLY),
    ("lorem ipsum", "p", LOREM),
    ("terms of use", "m", POLICY),
    ("privacy policy", "v", POLICY),
    ("cookie policy", "k", POLICY),
    ("uses cookies", "k", POLICY),
    ("use of cookies", "k", POLICY),
    ("use cookies", "k", POLICY),
    ("privacy overview", "v", NOTICE),
    ("privacy & cookies policy", "v", NOTICE),
    ("privacy and cookies policy", "v", NOTICE),
    ("necessary cookies are absolutely essential", "k", NOTICE),
    ("cookies that may not be particularly necessary", "k", NOTICE),
    ("without changing your cookie settings", "k", NOTICE),
)
# Unicode's Sentence_Terminal (https://www.unicode.org/Public/15.0.0/ucd/PropList.txt) and the Khmer signs that FineWeb adds
_STOPS = """21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6
17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C
2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E
FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"""
_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # where str.splitlines() breaks
_TRIGGERS = ".:"  # bytes that may start an ellipsis or stand in a URL


class Tables(NamedTuple):
    """Everything the kernels look up. Rows `first[b]:first[b + 1]` of `phrases` are those that byte b gives away."""

    kinds: np.ndarray  # uint16[0x110000], bits of a code point
    bytes: np.ndarray  # uint16[256], bits of an ASCII byte
    first: np.ndarray  # int64[257]
    phrases: np.ndarray  # int64[number of phrases, 3 + longest]: where the giving byte stands, length, meaning, the bytes


@cache
def tables() -> Tables:
    """The tables; half a second once per process."""
    kinds = _kinds()
    ascii_kinds = kinds[:128].astype(np.uint16)
    of_bytes = np.zeros(256, dtype=np.uint16)
    of_bytes[:128] = ascii_kinds | np.where(ascii_kinds & (SPACE | WORD), 0, PUNCTUATION).astype(np.uint16)
    ranked = sorted(_PHRASES, key=lambda phrase: phrase[1])
    for letter in {*_TRIGGERS, *(phrase[1] for phrase in ranked)}:
        for case in (letter.lower(), letter.upper()):
            of_bytes[ord(case)] |= TRIGGER
    first = np.array([sum(ord(phrase[1]) < byte for phrase in ranked) for byte in range(257)], dtype=np.int64)
    phrases = np.zeros((len(ranked), 3 + max(len(phrase[0]) for phrase in ranked)), dtype=np.int64)
    for row, (text, letter, meaning) in zip(phrases, ranked, strict=True):
        row[:3] = text.index(letter), len(text), meaning
        row[3 : 3 + len(text)] = list(text.encode())
    return Tables(kinds, of_bytes, first, phrases)


def _kinds() -> np.ndarray:
    """Bits of every code point, from the Unicode version of this Python."""
    of_category = {"Lu": ALPHA | WORD | UPPER, "Ll": ALPHA | WORD | LOWER, "Nd": WORD | DIGIT}
    of_category |= dict.fromkeys(("Lt", "Lm", "Lo"), ALPHA | WORD) | dict.fromkeys(("Nl", "No", "Mn", "Mc", "Me"), WORD)
    category, points = unicodedata.category, range(sys.maxunicode + 1)
    kinds = np.array([of_category.get(category(chr(point)), 0) for point in points], dtype=np.uint16)
    kinds[[point for point in points if chr(point).isspace()]] |= SPACE
    for part in _STOPS.split():
        low, _, high = part.partition("-")
        kinds[int(low, 16) : int(high or low, 16) + 1] |= STOP
    kinds[[ord(char) for char in _BREAKS]] |= BREAK
    for low, high in (*UNSPACED_RANGES, (0x20000, 0x40000)):
        here = kinds[low:high]
        here[here & ALPHA > 0] |= UNSPACED
    return kinds
