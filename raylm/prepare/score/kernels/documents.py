"""Counts of every text of an Arrow column: the kernel that runs all others, text by text.

scan (words, tokens, breaks, phrases) -> tally of bytes -> lines -> paragraphs -> n-grams of tokens and of words
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from raylm.prepare.score.kernels.bytes import hash_of, num_chars, room_for
from raylm.prepare.score.kernels.lines import break_lines, feed_lines
from raylm.prepare.score.kernels.paragraphs import blocks, paragraphs
from raylm.prepare.score.kernels.repeats import repeats
from raylm.prepare.score.kernels.scratch import (
    AT,
    TOKEN_CHARS,
    TOKEN_SUM,
    WORD_CHARS,
    WORD_END,
    WORD_START,
    WORD_SUM,
    Counts,
    inner,
    scratch_of,
)
from raylm.prepare.score.kernels.tables import tables
from raylm.prepare.score.kernels.words import scan

_FIRST_ROOM = 4096


def count_documents(data: np.ndarray, offsets: np.ndarray, stop_words: tuple[str, ...]) -> Counts:
    """Counts of every text, as a Counts of int64[N] columns.

    Args:
        data: uint8, UTF-8 of all texts.
        offsets: int64[N + 1], where each starts and the last ends (Arrow's large_string).
        stop_words: at most 62, compared in this spelling.
    """
    stops = np.array([hash_of(np.frombuffer(word.encode(), np.uint8), 0, len(word.encode())) for word in stop_words], np.uint64)
    out = np.zeros((len(offsets) - 1, len(AT)), dtype=np.int64)
    look = tables()
    _run(data, offsets, look.bytes, look.kinds, look.first, look.phrases, stops, out)
    return Counts(*out.T)


def _cached_run() -> Any:
    # numba's cache looks at this file alone; the digest is part of the cache's key, so that an edited neighbour is seen too
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    version = int.from_bytes(hashlib.sha256(sources).digest()[:6], "big")

    @njit(nogil=True, cache=True)
    def run(data, offsets, of_bytes, kinds, first, phrases, stops, out):
        if version < 0:
            return
        ints, hashes = scratch_of(_FIRST_ROOM)
        keys, owners, work = _tables_of(_FIRST_ROOM)
        found, count = np.zeros((4, 9), np.int64), np.zeros(len(AT), np.int64)
        for row in range(len(offsets) - 1):
            low, high = offsets[row], offsets[row + 1]
            words, tokens, breaks, events = scan(data, low, high, of_bytes, kinds, first, phrases, stops, ints, hashes, count)
            while words < 0:
                ints, hashes = scratch_of(2 * ints.shape[1])
                keys, owners, work = _tables_of(ints.shape[1])
                words, tokens, breaks, events = scan(data, low, high, of_bytes, kinds, first, phrases, stops, ints, hashes, count)
            _tally(data, low, high, count)
            break_lines(data, low, high, breaks, words, events, ints, count)
            lines = feed_lines(data, low, high, breaks, words, kinds, keys, ints, hashes, count)
            paragraphs(data, lines, words, keys, ints, hashes, count)
            blocks(lines, events, keys, ints, hashes, count)
            repeats(hashes[TOKEN_SUM], ints[TOKEN_CHARS], tokens, keys, owners, work, found)
            for n in range(3):
                at, times = found[0, n], found[1, n]
                length = ints[TOKEN_CHARS, at + n + 2] - ints[TOKEN_CHARS, at] + n + 1
                count[AT.token_top + n] = times * length if times > 0 else 0
            count[AT.token_again : AT.token_again + 6] = found[2, 3:]
            repeats(hashes[WORD_SUM], ints[WORD_CHARS], words, keys, owners, work, found)
            for n in range(3):
                if found[1, n] > 0:
                    at = found[0, n]
                    count[AT.word_top + n] = _chars_of(data, low, high, at, at + n + 2, ints, work[0])
            count[AT.word_covered : AT.word_covered + 6] = found[3, 3:]
            out[row] = count

    return run


@inner
def _tables_of(room):
    """Hash table, owners and positions for the n-grams and lines of a text that fits a Scratch of this room."""
    size = room_for(room + 2)
    return np.empty(size, np.uint64), np.empty(size, np.int32), np.empty((4, room + 2), np.int64)


@inner
def _tally(data, low, high, count):
    """Counts that need no more than a byte."""
    seen = np.zeros((4, 256), np.int64)  # four, so that a run of one byte does not wait for itself
    for i in range(low, high):
        seen[i & 3, data[i]] += 1
    for k in range(4):
        one = seen[k]
        digits, letters = one[48:58].sum(), one[65:91].sum() + one[97:123].sum()
        count[AT.digits] += digits
        count[AT.plain_chars] += letters + digits + one[10] + one[63] + one[33] + one[44] + one[46]
        count[AT.blank_chars] += one[32] + one[9] + one[10] + one[13] + one[8]
        count[AT.brackets] += one[40] + one[41] + one[91] + one[93] + one[123] + one[125]
        count[AT.hashes] += one[35]
        count[AT.newlines] += one[10]


@inner
def _chars_of(data, low, high, word, word_end, ints, table):
    """Characters that go when the words [word, word_end), a space between each two (none where a script has none), are cut
    wherever they stand in the text.

    A search in linear time (Knuth, Morris, Pratt 1977); `table` holds an int64 per byte of the sought or the search is shorter.
    """
    length = 0
    for w in range(word, word_end):
        length += w > word and ints[WORD_START, w] > ints[WORD_END, w - 1]
        length += ints[WORD_END, w] - ints[WORD_START, w]
    sought = np.empty(length, np.uint8)
    at = 0
    for w in range(word, word_end):
        if w > word and ints[WORD_START, w] > ints[WORD_END, w - 1]:
            sought[at] = 32
            at += 1
        for i in range(ints[WORD_START, w], ints[WORD_END, w]):
            sought[at] = data[i]
            at += 1
    back = table if length <= len(table) else np.empty(length, np.int64)
    back[0], same = 0, 0
    for k in range(1, length):
        while same > 0 and sought[k] != sought[same]:
            same = back[same - 1]
        same += sought[k] == sought[same]
        back[k] = same
    times, same, first = 0, 0, sought[0]
    for i in range(low, high):
        if same == 0 and data[i] != first:
            continue
        while same > 0 and data[i] != sought[same]:
            same = back[same - 1]
        same += data[i] == sought[same]
        if same == length:
            times, same = times + 1, 0
    return times * num_chars(sought, 0, length)


_run = _cached_run()
