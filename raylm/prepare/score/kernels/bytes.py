"""Primitives of the text kernels over UTF-8 bytes: code points, hashes, phrases, URLs."""

from __future__ import annotations

import numpy as np
from numba import njit

from raylm.prepare.score.kernels.scratch import inner

SEED = np.uint64(0xCBF29CE484222325)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINISH = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


@inner
def point_at(data, i, end):
    """Code point at byte i and its width in bytes. A byte that starts none stands for itself, so that no input is read past."""
    lead = np.int64(data[i])
    if lead < 0xC2:
        return lead, 1
    if lead < 0xE0 and i + 1 < end:
        return ((lead & 31) << 6) | (np.int64(data[i + 1]) & 63), 2
    if lead < 0xF0 and i + 2 < end:
        return ((lead & 15) << 12) | ((np.int64(data[i + 1]) & 63) << 6) | (np.int64(data[i + 2]) & 63), 3
    if lead < 0xF5 and i + 3 < end:
        high = ((lead & 7) << 18) | ((np.int64(data[i + 1]) & 63) << 12)
        return min(high | ((np.int64(data[i + 2]) & 63) << 6) | (np.int64(data[i + 3]) & 63), 0x10FFFF), 4
    return lead, 1


@inner
def finish(h):
    """Mixes a running hash so that every bit depends on every byte."""
    h = (h ^ (h >> _HALF)) * _FINISH
    return h ^ (h >> _HALF)


@njit(nogil=True)
def hash_of(data, low, high):
    """64-bit hash of bytes [low, high); equal to what `scan` computes for the same word."""
    h = SEED
    for i in range(low, high):
        h = (h ^ np.uint64(data[i])) * MULTIPLIER
    return finish(h)


@inner
def num_chars(data, low, high):
    """Code points in bytes [low, high)."""
    count = 0
    for i in range(low, high):
        count += (data[i] & 0xC0) != 0x80
    return count


@inner
def is_new(keys, mask, h):
    """Adds h to an open-addressing set of uint64 (0 is empty; mask = size - 1); False when it was there."""
    h = max(h, np.uint64(1))
    slot = np.int64(h >> np.uint64(20)) & mask
    while keys[slot] != 0:
        if keys[slot] == h:
            return False
        slot = (slot + 1) & mask
    keys[slot] = h
    return True


@inner
def room_for(count):
    """Size of a table, a power of two, that `count` keys fill to half at most."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@inner
def phrase_at(data, low, high, i, first, phrases):
    """(meaning, first byte) of the phrase that the byte at i is the mark of, ASCII letters in any case; (255, i) when none is.

    The first of the table wins: what C4 knows stands before what only NeMo Curator knows.
    """
    byte = np.int64(data[i])
    if 65 <= byte <= 90:
        byte += 32
    for phrase in range(first[byte], first[byte + 1]):
        start, length = i - phrases[phrase, 0], phrases[phrase, 1]
        if start < low or start + length > high:
            continue
        same = 0
        while same < length:
            have = np.int64(data[start + same])
            if 65 <= have <= 90:
                have += 32
            if have != phrases[phrase, 3 + same]:
                break
            same += 1
        if same == length:
            return phrases[phrase, 2], start
    return 255, i


@inner
def url_end(data, low, high, colon):
    """End of the URL whose `http:` or `https:` ends at this colon, -1 when there is none; and its first byte."""
    start = colon - 5 if colon - 5 >= low and data[colon - 1] == 115 else colon - 4
    if start < low or colon + 3 >= high or data[colon + 1] != 47 or data[colon + 2] != 47:
        return -1, start
    if data[start] != 104 or data[start + 1] != 116 or data[start + 2] != 116 or data[start + 3] != 112:
        return -1, start
    i = colon + 3
    while i < high:
        b = data[i]
        if b == 37:  # %, with two hex digits
            if i + 2 >= high or not (_is_hex(data[i + 1]) and _is_hex(data[i + 2])):
                break
            i += 3
        elif 97 <= b <= 122 or 63 <= b <= 90 or 40 <= b <= 58 or 35 <= b <= 36 or b in (33, 38, 61, 95, 126):
            i += 1
        else:
            break
    return (i if i > colon + 3 else -1), start


@inner
def _is_hex(byte):
    return 48 <= byte <= 57 or 65 <= byte <= 70 or 97 <= byte <= 102


@inner
def ends_with(data, low, high, word, any_case):
    """Whether bytes [low, high) end with `word` (bytes, lower case), in this or in any ASCII case."""
    if high - low < len(word):
        return False
    for k in range(len(word)):
        have = data[high - len(word) + k]
        if any_case and 65 <= have <= 90:
            have += 32
        if have != word[k]:
            return False
    return True


@inner
def last_point(data, low, high):
    """Code point of the last character of bytes [low, high); 0 when there is none."""
    if high <= low:
        return 0
    i = high - 1
    while i > low and (data[i] & 0xC0) == 0x80:
        i -= 1
    point, _ = point_at(data, i, high)
    return point
