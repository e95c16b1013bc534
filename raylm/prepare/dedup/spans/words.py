"""Words of texts given as bytes, and anchors among them: word k-grams chosen by their content (winnowing).

Anchors are winnowed (Schleimer, Wilkerson, Aiken 2003, https://theory.stanford.edu/~aiken/publications/papers/sigmod03.pdf):
of every `window` neighbouring k-grams the one with the smallest hash is taken, the rightmost of equal ones.

Any run of `least` = gram + window - 1 words that two texts share gives both the same anchor, at the same place in the
run: the run holds `window` k-grams, and which of them is taken hangs on those k-grams alone, which are the same in both.
And along a longer run the anchors lie at most `window` words apart, the first and last ones at most that far from its
ends. So an anchor with `least - gram` words on either side of it is enough to tell whether it lies in a shared run of
`least` words or more, and the union over all anchors of what they see is that run, whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from raylm.prepare.dedup.spans.hashing import SEED, add, is_space, mix

if TYPE_CHECKING:
    from raylm.prepare.dedup.spans.shards import Texts

# odd, so that no bit of a word's hash is lost
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LETTER, _SPACE, _ALONE = 0, 1, 2


class Winnow(NamedTuple):
    """How anchors are chosen, all in words."""

    least: int
    """Any shared run of this many words is found."""

    @property
    def window(self) -> int:
        """K-grams that one anchor is chosen among; about 2 of window + 1 are."""
        return self.least // 2 + 1

    @property
    def gram(self) -> int:
        return self.least - self.window + 1

    @property
    def side(self) -> int:
        """Words on either side of an anchor that are looked at."""
        return self.least - self.gram


def anchors_of(texts: Texts, winnow: Winnow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(doc int64[N], place int32[N], hash uint64[N]) of all anchors, in order; `place` is that of the first word."""
    return _anchors(texts.data, texts.offsets, winnow.gram, winnow.window)


def contexts_of(texts: Texts, doc: np.ndarray, place: np.ndarray, winnow: Winnow) -> tuple[np.ndarray, ...]:
    """(words uint32[N, side + gram + side], left int32[N], right int32[N]): what stands around anchors.

    Args:
        doc, place: of the anchors, sorted by doc.

    Returns:
        Half of each word's hash; how many words there are before, and after, up to `side`. The rest are zeros.
    """
    return _contexts(texts.data, texts.offsets, doc, place, winnow.gram, winnow.side)


def word_bounds(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) int64[N] of the words of one text, in bytes."""
    room = len(data) // 2 + 1
    starts, ends, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    size = _words(data, 0, len(data), starts, ends, hashes)
    return starts[:size], ends[:size]


@njit(cache=True)
def _kind(data, at, last):
    """(bytes, kind) of the character at `at`: part of a word, white space, or a word of its own, as in scripts that are
    written without spaces (Han, kana, Thai, Lao, Khmer, Burmese)."""
    byte = data[at]
    if byte < 0x80:
        return 1, _SPACE if is_space(byte) else _LETTER
    if byte < 0xE0:
        if byte == 0xC2 and at + 1 < last and (data[at + 1] == 0x85 or data[at + 1] == 0xA0):
            return 2, _SPACE
        return min(2, last - at), _LETTER
    if byte < 0xF0:
        if at + 2 >= last:
            return last - at, _LETTER
        code = (np.int64(byte & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | np.int64(data[at + 2] & 0x3F)
        if 0x2000 <= code <= 0x200A or code in (0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000):
            return 3, _SPACE
        alone = 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
        alone = alone or 0x0E00 <= code <= 0x0EFF or 0x1000 <= code <= 0x109F or 0x1780 <= code <= 0x17FF
        return 3, _ALONE if alone else _LETTER
    return min(4, last - at), _ALONE if 0xA0 <= data[at + 1] <= 0xBF and byte == 0xF0 else _LETTER


@njit(cache=True)
def _words(data, first, last, starts, ends, hashes):
    """Fills the three with the words of data[first:last]; leaves how many there are: half the bytes and one at most."""
    size, at, is_open, state = 0, first, False, SEED
    while at < last:
        width, kind = _kind(data, at, last)
        if is_open and kind != _LETTER:
            ends[size], hashes[size] = at, mix(state)
            size, is_open = size + 1, False
        if kind != _SPACE:
            if not is_open:
                starts[size], state, is_open = at, SEED, True
            for byte in range(at, at + width):
                state = add(state, data[byte])
            if kind == _ALONE:
                ends[size], hashes[size] = at + width, mix(state)
                size, is_open = size + 1, False
        at += width
    if is_open:
        ends[size], hashes[size] = last, mix(state)
        size += 1
    return size


@njit(cache=True)
def _room(offsets):
    most = 0
    for doc in range(len(offsets) - 1):
        most = max(most, offsets[doc + 1] - offsets[doc])
    return most // 2 + 1


@njit(cache=True)
def _anchors(data, offsets, gram, window):
    room = _room(offsets)
    starts, ends, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    grams = np.empty(room, np.uint64)
    drop = np.uint64(1)
    for _ in range(gram - 1):
        drop *= _BASE
    size, held = 0, 1024
    docs, places, found = np.empty(held, np.int64), np.empty(held, np.int32), np.empty(held, np.uint64)
    for doc in range(len(offsets) - 1):
        words = _words(data, offsets[doc], offsets[doc + 1], starts, ends, hashes)
        if words < gram + window - 1:
            continue
        state = np.uint64(0)
        for at in range(words):
            if at >= gram:
                state -= hashes[at - gram] * drop
            state = state * _BASE + hashes[at]
            if at >= gram - 1:
                grams[at - gram + 1] = mix(state)
        best = -1
        for end in range(window - 1, words - gram + 1):
            start, before = end - window + 1, best
            if best < start:
                best = start
                for at in range(start + 1, end + 1):
                    if grams[at] <= grams[best]:
                        best = at
            elif grams[end] <= grams[best]:
                best = end
            if best == before:
                continue
            if size == held:
                held *= 2
                docs, places, found = _grown(docs, held), _grown(places, held), _grown(found, held)
            docs[size], places[size], found[size] = doc, best, grams[best]
            size += 1
    return docs[:size], places[:size], found[:size]


@njit(cache=True)
def _grown(old, size):
    new = np.empty(size, old.dtype)
    new[: len(old)] = old
    return new


@njit(cache=True)
def _contexts(data, offsets, doc, place, gram, side):
    room = _room(offsets)
    starts, ends, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    around = np.zeros((len(doc), side + gram + side), np.uint32)
    left, right = np.empty(len(doc), np.int32), np.empty(len(doc), np.int32)
    words, last = 0, -1
    for at in range(len(doc)):
        if doc[at] != last:
            last = doc[at]
            words = _words(data, offsets[last], offsets[last + 1], starts, ends, hashes)
        left[at] = min(side, place[at])
        right[at] = min(side, words - place[at] - gram)
        for word in range(place[at] - left[at], place[at] + gram + right[at]):
            around[at, word - place[at] + side] = np.uint32(hashes[word] >> np.uint64(32))
    return around, left, right


@njit(cache=True)
def shared_runs(group, row, place, around, left, right, gram, most, within):
    """What each anchor shares with the first `most` of its group that come before it.

    Args:
        group: int64[N], equal for anchors of one hash; ascending, and within it (row, place) are.
        within: whether anchors of the same row are compared too, when they are a run apart or more.

    Returns:
        (start int32[N], stop int32[N], other int64[N]): the run in words of the text (empty when there is none of
        gram + side words), and the number of the anchor that shares most, -1 when none does.
    """
    size, side = len(group), (around.shape[1] - gram) // 2
    start, stop, other = place.copy(), place.copy(), np.full(size, -1, np.int64)
    first = 0
    for at in range(size):
        if group[at] != group[first]:
            first = at
        longest = 0
        for earlier in range(first, min(at, first + most)):
            if row[earlier] == row[at] and not (within and place[at] - place[earlier] >= gram + side):
                continue
            before, after = 0, 0
            same = True
            for word in range(side, side + gram):
                same = same and around[at, word] == around[earlier, word]
            if not same:
                continue
            while before < min(left[at], left[earlier]) and around[at, side - 1 - before] == around[earlier, side - 1 - before]:
                before += 1
            end = side + gram
            while after < min(right[at], right[earlier]) and around[at, end + after] == around[earlier, end + after]:
                after += 1
            if before + gram + after < gram + side:
                continue
            start[at] = min(start[at], place[at] - before)
            stop[at] = max(stop[at], place[at] + gram + after)
            if before + after > longest:
                longest, other[at] = before + after, earlier
            if before == side and after == side:
                break
    return start, stop, other
