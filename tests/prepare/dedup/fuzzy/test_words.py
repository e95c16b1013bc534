"""Words and shingles against a slow reference in plain Python, and against themselves for ever."""

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa

from raylm.prepare.dedup.fuzzy.words import MAX_NGRAM, VERSION, Fold, fold_table, multipliers, shingle_sets

_FULL = 2**64 - 1
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def _mixed(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _FULL
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _FULL
    return value ^ value >> 31


FOLDED = Fold(numbers=True, operators=True)


def slow_words(text):
    """Folded words by regular expressions and unicodedata, in the order in which the rules are written down."""
    low = "".join(char.lower() for char in text).replace("\u03c2", "\u03c3")
    low = re.sub("\\d+(?:[.,\u060c\u066b\u2396\u2397\u2398]\\d+)?", "0", low)
    made = ""
    for char in unicodedata.normalize("NFD", low):
        kind = unicodedata.category(char)
        if kind in ("Mn", "Cf"):
            continue
        if kind[0] in "PZ" or kind in ("Cc", "Sm", "Sc", "Sk") or char in "\u2396\u2397\u2398":
            made += " "
        else:
            made += f" {char} " if _UNSPACED.match(char) else char
    return made.split()


def slow_shingles(text, ngram):
    """Set of hashes of the n-grams of a text."""
    hashes = []
    for word in slow_words(text):
        state = 0xCBF29CE484222325
        for char in word:
            state = (state ^ ord(char)) * 0x100000001B3 & _FULL
        hashes.append(_mixed(state))
    weights = [int(weight) for weight in multipliers()]
    size = min(ngram, len(hashes))
    runs = [hashes[at : at + size] for at in range(len(hashes) - size + 1)] if hashes else []
    return {_mixed(sum(word * weight for word, weight in zip(run, weights, strict=False)) & _FULL) for run in runs}


def sets_of(texts, ngram=5, fold=FOLDED):
    """Shingle sets of texts as Python sets."""
    ends, values = shingle_sets(pa.chunked_array([pa.array(texts, pa.large_string())]), ngram, fold)
    return [set(values[start:end].tolist()) for start, end in pairwise(ends)]


TEXTS = [
    "The quick brown fox, 12.5 metres long, jumped over 1,234,567 lazy dogs at 10:45.",
    "  Ünïcödé   ÉTÉ été\u0301 \u039f\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2 \u0130stanbul soft\u00adhyphen zero\u200bwidth",
    "\u4eca\u65e5\u306f good \u5929\u6c17 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \ud55c\uad6d\uc5b4 \uff11\uff12\uff0e\uff15 "
    "\u0661\u066b\u0662 x",
    "...!? --- $$$",
    "",
    "one",
    "abc123def 4. 5,6,7 8.\u0301 9",
    "smile \U0001f600\U0001f600 rare \U00020000\U0002a700 \U000e0041tag \U000f0000",
    "a\0b\tc\x85d e\nf",
]


def test_shingles_are_those_of_a_slow_reference():
    for ngram in (1, 2, 5):
        assert sets_of(TEXTS, ngram) == [slow_shingles(text, ngram) for text in TEXTS]


def test_random_text_of_all_planes():
    draw = np.random.default_rng(0)
    near = [0x20, 0x2E, 0x30, 0x39, 0x41, 0x61, 0xC0, 0x300, 0x4E00, 0xAC00]
    texts = []
    for _ in range(200):
        points = np.concatenate([draw.choice(near, 40), draw.integers(1, 0x3000, 20), draw.integers(0xE000, 0x1FFFF, 5)])
        texts.append("".join(map(chr, draw.permutation(points))))
    assert sets_of(texts, 2) == [slow_shingles(text, 2) for text in texts]


def test_composed_and_decomposed_text_are_the_same():
    text = "\u00c5ngstr\u00f6m \ud55c\uad6d\uc5b4 caf\u00e9 \u09cb\u0995 na\u00efve"
    assert len({frozenset(made) for made in sets_of([text, unicodedata.normalize("NFD", text), text.upper()], 1)}) == 1


def test_the_hashes_are_fixed_for_ever():
    assert VERSION == 1
    golden = {
        "one two three four five six": [10351376662343871320, 16197830818917893761],
        "Caf\u00e9 \u4eca\u65e5 3.14": [8398379253447449712],
    }
    assert [sorted(made) for made in sets_of(list(golden))] == [sorted(made) for made in golden.values()]


def test_the_table_holds_every_fold_whole():
    kinds, folds = fold_table(*FOLDED)
    assert len(multipliers()) == MAX_NGRAM and kinds.max() == 5
    for point in range(0x20000):
        plain = unicodedata.normalize("NFD", chr(point).lower())
        assert sum(unicodedata.category(char) != "Mn" for char in plain) <= 3
        assert point in (0, 0x3C2) or folds[point] < 2**63 - 1


def test_columns_in_slices_and_chunks_read_the_same():
    column = pa.array(TEXTS, pa.large_string())
    ends, values = shingle_sets(pa.chunked_array([column.slice(0, 2), column.slice(2, 0), column.slice(2, 7)]), 3, FOLDED)
    assert [set(values[a:b].tolist()) for a, b in pairwise(ends)] == sets_of(TEXTS, 3)


def _words(text):
    """How many words a text has, and the set of them."""
    ends, values = shingle_sets(pa.chunked_array([pa.array([text], pa.large_string())]), 1)
    return set(values[: ends[1]].tolist())


def _same(one, other):
    return sets_of([one], fold=Fold()) == sets_of([other], fold=Fold())


def test_numbers_and_operators_are_words_as_they_are():
    for one, other in (
        ("1 + 1 = 2", "1 - 1 = 2"),
        ("1 + 1 = 2", "1 + 1 = 3"),
        ("a < b", "a > b"),
        ("a+b*c", "a+b/c"),
        ("x = -5", "x = 5"),
        ("if (a == b)", "if (a != b)"),
        ("if (!x)", "if (x)"),
        ("a && b", "a || b"),
        ("3 * 4", "3 / 4"),
        ("costs $5", "costs \u20ac5"),
        ("x <= 1", "x < 1"),
        ("12.5 m", "1.25 m"),
        ("| 11 | 12 |", "| 11 | 13 |"),
        ("2\u00d73", "2\u00f73"),
    ):
        assert not _same(one, other), (one, other)
        folded = sets_of([one, other])
        assert folded[0] == folded[1], (one, other)


def test_punctuation_case_and_marks_do_not_count():
    for one, other in (
        ("A well-known word - or two!", "a well known word, or two."),
        ("**Bold** and *slanted* words", "bold and slanted words"),
        ("- an item", "* an item"),
        ("Caf\u00e9 (12), [13]; \uff11\u0662", "cafe 12 13 12"),
    ):
        assert _same(one, other), (one, other)


def test_every_byte_may_be_a_word():
    """Room for words is not passed: a letter and an operator in turn make as many words as bytes."""
    text = "a+" * 1000
    assert len(_words(text)) == 2 and len(sets_of([text], 7, Fold())[0]) == 2


def test_hashes_of_words_as_they_are_are_fixed_too():
    golden = {"Caf\u00e9 3.14 <= x + 1": [3121727739667430910, 4278913148457454015, 14354763099166283050]}
    assert [sorted(made) for made in sets_of(list(golden), fold=Fold())] == [sorted(made) for made in golden.values()]
