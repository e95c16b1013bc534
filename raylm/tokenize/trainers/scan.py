"""The compiled part of counting: where the pre-tokens of UTF-8 text end, and how often each occurs.

Follows the two regular expressions of pattern.py by hand: every position is matched by some alternative, so a text is
cut without gaps. Tests hold it equal to `tokenizers` on random Unicode.
"""

from __future__ import annotations

import numba
import numpy as np

from raylm.tokenize.trainers.pattern import LETTER, NUMBER, OTHER, SPACE

_QUOTE, _BLANK, _LF, _CR = 39, 32, 10, 13
_MUL = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, inline="always")
def _peek(data, at, classes):
    """(class, bytes) of the character at `at`."""
    lead = data[at]
    if lead < 0x80:
        return classes[lead], 1
    if lead < 0xE0:
        return classes[(np.int64(lead & 31) << 6) | (data[at + 1] & 63)], 2
    if lead < 0xF0:
        return classes[(np.int64(lead & 15) << 12) | (np.int64(data[at + 1] & 63) << 6) | (data[at + 2] & 63)], 3
    high = (np.int64(lead & 7) << 18) | (np.int64(data[at + 1] & 63) << 12)
    return classes[high | (np.int64(data[at + 2] & 63) << 6) | (data[at + 3] & 63)], 4


@numba.njit(cache=True)
def _run(data, at, end, classes, kind, most):
    """End of the run of characters of class `kind` that begins at `at`; `most` of them, 0 for all."""
    taken = 0
    while at < end and (most == 0 or taken < most):
        found, width = _peek(data, at, classes)
        if found != kind:
            break
        at += width
        taken += 1
    return at


@numba.njit(cache=True)
def _contraction(data, at, end, four):
    """End of 's, 't, 're, 've, 'm, 'll, 'd at `at` (gpt4: in any case, a long s too), or `at`."""
    if data[at] != _QUOTE or at + 1 >= end:
        return at
    fold = np.uint8(32) if four else np.uint8(0)
    first = data[at + 1] | fold
    if first == 115 or first == 116 or first == 109 or first == 100:
        return at + 2
    if at + 2 >= end:
        return at
    if four and data[at + 1] == 0xC5 and data[at + 2] == 0xBF:
        return at + 3
    second = data[at + 2] | fold
    if ((first == 114 or first == 118) and second == 101) or (first == 108 and second == 108):
        return at + 3
    return at


@numba.njit(cache=True)
def _white(data, at, end, classes, four):
    """End of the pre-token of white space at `at`: it leaves its last character to a word that follows."""
    last, newline, start = at, at, at
    while at < end:
        kind, width = _peek(data, at, classes)
        if kind != SPACE:
            break
        last = at
        at += width
        if data[last] == _LF or data[last] == _CR:
            newline = at
    if four and newline > start:
        return newline
    return at if at == end or last == start else last


@numba.njit(cache=True)
def token_end(data, at, end, classes, four, digits):
    """End of the pre-token that begins at byte `at` of a text that ends at `end`."""
    short = _contraction(data, at, end, four)
    if short > at:
        return short
    kind, width = _peek(data, at, classes)
    blank = data[at] == _BLANK and at + 1 < end
    after = at + 1 if blank else at
    if four:
        if kind == LETTER:
            return _run(data, at, end, classes, LETTER, 0)
        if kind != NUMBER and data[at] != _LF and data[at] != _CR and at + width < end:
            word = _run(data, at + width, end, classes, LETTER, 0)
            if word > at + width:
                return word
        if kind == NUMBER:
            return _run(data, at, end, classes, NUMBER, digits)
        if _peek(data, after, classes)[0] == OTHER:
            after = _run(data, after, end, classes, OTHER, 0)
            while after < end and (data[after] == _LF or data[after] == _CR):
                after += 1
            return after
        return _white(data, at, end, classes, four)
    kind, width = _peek(data, after, classes)
    if kind == SPACE:
        return _white(data, at, end, classes, four)
    return _run(data, after, end, classes, kind, digits if kind == NUMBER else 0)


@numba.njit(cache=True)
def hash_bytes(data, start, end):
    """A 64-bit hash of data[start:end], its high bits well mixed: they choose the partition."""
    value = np.uint64(end - start) * _MUL
    for at in range(start, end):
        value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        value ^= value >> np.uint64(29)
    value ^= value >> np.uint64(32)
    value *= _MUL
    return value ^ (value >> np.uint64(29))


@numba.njit(cache=True)
def count_tokens(data, bounds, text, at, classes, four, digits, slots, hashes, ends, counts, arena, used):
    """Count pre-tokens from byte `at` of text number `text` on, until the texts end or the table is full.

    Args:
        data, bounds: uint8[B], int64[T+1]; text t is data[bounds[t]:bounds[t+1]].
        slots: int64[a power of two], entry number + 1 by hash, 0 when free; at most half of them are used.
        hashes, ends, counts, arena: uint64[E], int64[E+1], uint64[E], uint8[A]: entry e is arena[ends[e]:ends[e+1]].
        used: entries in the table.

    Returns:
        (text, at, used): where to go on; text == T when done.
    """
    mask = np.uint64(len(slots) - 1)
    for t in range(text, len(bounds) - 1):
        end = bounds[t + 1]
        while at < end:
            stop = token_end(data, at, end, classes, four, digits)
            hashed = hash_bytes(data, at, stop)
            size = stop - at
            slot = hashed & mask
            while True:
                entry = slots[slot] - 1
                if entry < 0:
                    if used == len(hashes) or ends[used] + size > len(arena):
                        return t, at, used
                    hashes[used], counts[used] = hashed, 1
                    arena[ends[used] : ends[used] + size] = data[at:stop]
                    ends[used + 1] = ends[used] + size
                    used += 1
                    slots[slot] = used
                    break
                if hashes[entry] == hashed and ends[entry + 1] - ends[entry] == size:
                    same = True
                    for k in range(size):
                        if arena[ends[entry] + k] != data[at + k]:
                            same = False
                            break
                    if same:
                        counts[entry] += np.uint64(1)
                        break
                slot = (slot + np.uint64(1)) & mask
            at = stop
    return len(bounds) - 1, bounds[-1], used


@numba.njit(cache=True)
def fill_slots(slots, hashes, used):
    """Enter the first `used` entries into empty slots."""
    mask = np.uint64(len(slots) - 1)
    for entry in range(used):
        slot = hashes[entry] & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = entry + 1
