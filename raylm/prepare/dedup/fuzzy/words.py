"""Words of UTF-8 text as they are compared, and 64-bit hashes of word n-grams (shingles).

Words are folded so that spelling does not hide a copy: lower case, NFD without marks, punctuation a space. What stands where
scripts put no spaces between words is a word by itself, character by character; format characters (soft hyphen, joiners,
byte order mark) vanish. Numbers and operators say what a line of arithmetic, code or a table says, so they are words as they
are; folded (every number 0, operators a space) words are those of `simplify_text` in
https://github.com/huggingface/datatrove, but for those two differences.

The hashes are fixed for ever: `VERSION` is raised when one of them changes. Code points above `_TABLE` are ideographs,
or stand for themselves.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
# longest n-gram that has a multiplier of its own
MAX_NGRAM = 64

_TABLE = 0x20000
_SPACE, _LETTER, _DIGIT, _POINT, _ALONE, _NOTHING, _SIGN, _PERHAPS = range(8)
# a number goes on over one of these when a digit follows
_POINTS = ".,\u060c\u066b\u2396\u2397\u2398"
# scripts without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, kana, ideographs of the first plane
UNSPACED = (
    (0x0E00, 0x10A0),
    (0x1780, 0x1800),
    (0x2E80, 0x3100),
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
)
# by Unicode category; all others are letters
_KIND: dict[str, int] = {"Nd": _DIGIT, "Mn": _NOTHING, "Cf": _NOTHING}
_SPACES = ("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Zs", "Zl", "Zp", "Cc", "Cs", "Sm", "Sc", "Sk")
_KIND.update((category, _SPACE) for category in _SPACES)
# operators beside the mathematical and currency symbols; and those that prose and markup have too
_SIGNS, _PERHAPS_SIGNS = "^/%&", "-!*"
_PRIME, _START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)


class Fold(NamedTuple):
    """What is taken for equal beyond spelling."""

    numbers: bool = False
    operators: bool = False


_AS_IT_IS = Fold()


@functools.cache
def fold_table(numbers: bool = False, operators: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[0x20000] kind of character, int64[0x20000] what it folds to: up to three code points of 21 bits).

    Args:
        numbers, operators: whether these are folded.
    """
    chars = [chr(point) for point in range(_TABLE)]
    categories = [unicodedata.category(char) for char in chars]
    kinds = np.array([_KIND.get(category, _LETTER) for category in categories], np.uint8)
    if not operators:
        kinds[[category in ("Sm", "Sc") for category in categories]] = _SIGN
        kinds[[ord(char) for char in _SIGNS]] = _SIGN
        kinds[[ord(char) for char in _PERHAPS_SIGNS]] = _PERHAPS
    digits = np.flatnonzero(kinds == _DIGIT)
    if not numbers:
        kinds[digits] = _LETTER
    for start, end in UNSPACED:
        here = kinds[start:end]
        here[here == _LETTER] = _ALONE
    kinds[[ord(char) for char in _POINTS]] = _POINT
    folds = np.arange(_TABLE)
    for point, char in enumerate(chars):
        # most letters have neither case nor parts
        if char.lower() != char or unicodedata.decomposition(char) or 0xAC00 <= point < 0xD7A4:
            parts = unicodedata.normalize("NFD", char.lower())
            plain = [ord(part) for part in parts if unicodedata.category(part) != "Mn"]
            folds[point] = sum(part << 21 * at for at, part in enumerate(plain[:3]))
    folds[digits] = [48 + unicodedata.digit(chars[point]) for point in digits]
    # at the end of a word str.lower would make the other small sigma
    folds[0x3C2] = 0x3C3
    return kinds, folds


def multipliers() -> np.ndarray:
    """uint64[MAX_NGRAM], odd: the weight of each word of an n-gram."""
    return random_words(0x5EED0001, MAX_NGRAM) | np.uint64(1)


def random_words(seed: int, size: int) -> np.ndarray:
    """uint64[size] of SplitMix64 (Steele et al. 2014): a stream that no library's next version changes."""
    state = np.uint64(seed) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


@njit(nogil=True, cache=True, inline="always")
def mixed(value: np.uint64) -> np.uint64:
    """SplitMix64's last steps: every bit of the result depends on every bit of the value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def _decoded(data, at):
    """(code point, bytes) of the sound UTF-8 sequence that begins at `at`."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F, 2
    if byte < 0xF0:
        return (byte & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | np.int64(data[at + 2]) & 0x3F, 3
    high = (byte & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12
    return high | (np.int64(data[at + 2]) & 0x3F) << 6 | np.int64(data[at + 3]) & 0x3F, 4


@njit(nogil=True, cache=True, inline="always")
def _kind(point, kinds):
    if point < _TABLE:
        return kinds[point]
    if point < 0x40000:
        return np.uint8(_ALONE)
    # tags and variation selectors; what is left is for private use
    return np.uint8(_NOTHING if 0xE0000 <= point < 0xE1000 else _LETTER)


@njit(nogil=True, cache=True)
def _after_number(data, at, end, kinds):
    """Where the number that begins at `at` ends: digits, and once more digits after a point."""
    pointed = False
    while at < end:
        point, size = _decoded(data, at)
        kind = _kind(point, kinds)
        if kind == _POINT and not pointed and at + size < end:
            following, _ = _decoded(data, at + size)
            if _kind(following, kinds) != _DIGIT:
                return at
            pointed = True
        elif kind != _DIGIT:
            return at
        at += size
    return at


@njit(nogil=True, cache=True)
def _is_operator(data, at, start, end):
    """Whether the - ! or * at `at` is one: no hyphen, no end of a sentence, no markup."""
    sign = data[at]
    before = data[at - 1] if at > start else 10
    after = data[at + 1] if at + 1 < end else 10
    number, opens = 48 <= after <= 57, after == 40 or 97 <= after | 32 <= 122
    closed = before == 41 or before == 93 or 48 <= before <= 57 or 97 <= before | 32 <= 122
    if sign == 45:
        return number or (opens and before in (32, 40, 44, 61)) or (closed and opens and (before == 41 or after == 40))
    if sign == 33:
        return after == 61 or ((opens or number) and not closed)
    return (before == 32 and after == 32) or (closed and (opens or number))


@njit(nogil=True, cache=True)
def words_of(data, start, end, kinds, folds, words):
    """Hashes of the words of data[start:end] into `words`; leaves how many. `words` has room for end - start + 1."""
    count, at = 0, start
    state, filled = _START, False
    while at < end:
        point, size = _decoded(data, at)
        kind = _kind(point, kinds)
        if kind == _LETTER:
            fold = folds[point] if point < _TABLE else point
            while fold:
                state = (state ^ np.uint64(fold & 0x1FFFFF)) * _PRIME
                filled = True
                fold >>= 21
            at += size
            continue
        if kind == _DIGIT:
            at = _after_number(data, at, end, kinds)
            state = (state ^ np.uint64(48)) * _PRIME
            filled = True
            continue
        at += size
        if kind == _NOTHING:
            continue
        if filled:
            words[count] = mixed(state)
            count += 1
            state, filled = _START, False
        if kind == _SIGN or (kind == _PERHAPS and _is_operator(data, at - 1, start, end)):
            # what stands together (`!=`, `<=`) is one word
            state = (state ^ np.uint64(point)) * _PRIME
            while at < end:
                point, size = _decoded(data, at)
                kind = _kind(point, kinds)
                if kind != _SIGN and kind != _PERHAPS:
                    break
                state = (state ^ np.uint64(point)) * _PRIME
                at += size
            words[count] = mixed(state)
            count += 1
            state = _START
            continue
        if kind == _ALONE:
            words[count] = mixed((_START ^ np.uint64(folds[point] if point < _TABLE else point)) * _PRIME)
            count += 1
    if filled:
        words[count] = mixed(state)
        count += 1
    return count


@njit(nogil=True, cache=True)
def shingles_of(words, count, ngram, weights, out):
    """Hashes of the n-grams of `count` words into `out`; leaves how many. Fewer than n words make one, none make none."""
    if count == 0:
        return 0
    size = min(ngram, count)
    for at in range(count - size + 1):
        total = np.uint64(0)
        for of in range(size):
            total += words[at + of] * weights[of]
        out[at] = mixed(total)
    return count - size + 1


@njit(nogil=True, cache=True)
def _sets(data, offsets, ngram, kinds, folds, weights, words, found, ends, values):
    used = 0
    for at in range(len(offsets) - 1):
        count = words_of(data, offsets[at], offsets[at + 1], kinds, folds, words)
        count = shingles_of(words, count, ngram, weights, found)
        ordered = np.sort(found[:count])
        for of in range(count):
            if of == 0 or ordered[of] != ordered[of - 1]:
                values[used] = ordered[of]
                used += 1
        ends[at + 1] = used
    return used


def shingle_sets(texts: pa.ChunkedArray, ngram: int, fold: Fold = _AS_IT_IS) -> tuple[np.ndarray, np.ndarray]:
    """(int64[N + 1] ends, uint64[M] values): the set of shingles of each text, sorted."""
    kinds, folds = fold_table(*fold)
    weights, ends, values, base = multipliers(), [np.zeros(1, np.int64)], [], 0
    for data, offsets in buffers(texts):
        words, found = scratch(offsets)
        here = np.zeros(len(offsets), np.int64)
        kept = np.empty(int(offsets[-1] - offsets[0]) + len(offsets), np.uint64)
        used = _sets(data, offsets, ngram, kinds, folds, weights, words, found, here, kept)
        values.append(kept[:used].copy())
        ends.append(here[1:] + base)
        base += used
    return np.concatenate(ends), np.concatenate(values) if values else np.zeros(0, np.uint64)


def buffers(texts: pa.ChunkedArray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(uint8 bytes, int64 offsets) of each chunk of a large_string column, without a copy."""
    found = []
    for chunk in texts.chunks:
        _, offsets, data = chunk.buffers()
        if not len(chunk):
            continue
        bounds = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        found.append((np.frombuffer(data or b"\0", np.uint8), bounds))
    return found


def scratch(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Room for words and shingles of the longest of these texts."""
    longest = int(np.diff(offsets).max(initial=0)) + 2
    return np.empty(longest, np.uint64), np.empty(longest, np.uint64)


class Shingling(NamedTuple):
    """How a text becomes a set of shingles."""

    ngram: int
    fold: Fold

    def sets(self, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """See `shingle_sets`."""
        return shingle_sets(texts, self.ngram, self.fold)
