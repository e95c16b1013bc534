"""Lines and paragraphs of texts given as bytes: their positions, and a hash of each in normal form."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from raylm.prepare.dedup.exact import normal
from raylm.prepare.dedup.spans.hashing import SEED, add, is_space, mix

if TYPE_CHECKING:
    from raylm.prepare.dedup.spans.shards import Texts


class Units(NamedTuple):
    """Lines or paragraphs with something in them, in order; all int64[N].

    `doc` is the text's place in the shard, `number` the unit's place in its text. data[start:end] is the unit itself,
    data[start:stop] what goes with it: its line break, the blank lines after a paragraph.
    """

    doc: np.ndarray
    number: np.ndarray
    start: np.ndarray
    end: np.ndarray
    stop: np.ndarray


def units_of(texts: Texts, paragraphs: bool) -> Units:
    """All lines, or all paragraphs: lines in a row with no blank line between them."""
    size = _cut_units(texts.data, texts.offsets, paragraphs, np.empty((5, 0), np.int64))
    units = np.empty((5, size), np.int64)
    _cut_units(texts.data, texts.offsets, paragraphs, units)
    return Units(*units)


def hashes_of(data: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """(uint64[N], int64[N]): hash and number of characters of each unit in its normal form (see `exact.normal`)."""
    hashes, chars, plain = _hash_units(data, units.start, units.end)
    others = np.flatnonzero(~plain)
    if len(others):
        # beyond ASCII the normal form is Unicode's, which Python has and a kernel has not
        texts = [normal(data[units.start[at] : units.end[at]].tobytes().decode()).encode() for at in others]
        bounds = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        joined = np.frombuffer(b"".join(texts), np.uint8)
        hashes[others], chars[others], _ = _hash_units(joined, bounds[:-1], bounds[1:])
    return hashes, chars


@njit(cache=True)
def _cut_units(data, offsets, paragraphs, out):
    """Fills `out` when it is large enough; leaves the number of units."""
    size, room = 0, out.shape[1]
    for doc in range(len(offsets) - 1):
        at, last = offsets[doc], offsets[doc + 1]
        number, is_open = 0, False
        while at < last:
            end, blank = at, True
            while end < last and data[end] != 10:
                blank = blank and is_space(data[end])
                end += 1
            stop = min(end + 1, last)
            if not blank:
                if not (paragraphs and is_open):
                    if size < room:
                        out[0, size], out[1, size], out[2, size] = doc, number, at
                    size, number, is_open = size + 1, number + 1, True
                if size <= room:
                    out[3, size - 1], out[4, size - 1] = end, stop
            else:
                is_open = False
                if paragraphs and number and size <= room:
                    out[4, size - 1] = stop
            at = stop
    return size


@njit(cache=True)
def _hash_units(data, starts, ends):
    """Hash of lower case with single spaces, its length in characters, and whether that is all there is to do."""
    hashes = np.empty(len(starts), np.uint64)
    chars = np.zeros(len(starts), np.int64)
    plain = np.ones(len(starts), np.bool_)
    for at in range(len(starts)):
        state, gap = SEED, False
        for place in range(starts[at], ends[at]):
            byte = data[place]
            if byte >= 128:
                plain[at] = False
            if is_space(byte):
                gap = True
                continue
            if gap and chars[at]:
                state = add(state, 32)
                chars[at] += 1
            gap = False
            state = add(state, byte + 32 if 65 <= byte <= 90 else byte)
            if byte & 0xC0 != 0x80:
                chars[at] += 1
        hashes[at] = mix(state)
    return hashes, chars, plain
