"""Counts by paragraph: between runs of line feeds in the stripped text (Gopher), and between double line feeds (NeMo Curator's
blocks)."""

from __future__ import annotations

from raylm.prepare.score.kernels.bytes import MULTIPLIER, SEED, finish, is_new, num_chars, room_for
from raylm.prepare.score.kernels.lines import hash_line
from raylm.prepare.score.kernels.scratch import (
    AT,
    EVENT,
    EVENT_AT,
    LINE_CHARS,
    LINE_END,
    LINE_HASH,
    LINE_START,
    LINE_WORD,
    WORD_END,
    WORD_START,
    inner,
)
from raylm.prepare.score.kernels.tables import LOREM


@inner
def paragraphs(data, lines, words, keys, ints, hashes, count):
    """Gopher's: a paragraph is a run of lines that are not empty; white space at both ends of the text is cut before."""
    if words == 0:
        count[AT.paragraphs] = 1
        return
    size = room_for(lines)
    keys[:size] = 0
    left, right = ints[WORD_START, 0], ints[WORD_END, words - 1]
    h, chars, open_lines = SEED, 0, 0
    for k in range(lines + 1):
        if k < lines and (ints[LINE_END, k] < left or ints[LINE_START, k] > right):
            continue
        if k < lines and ints[LINE_END, k] > ints[LINE_START, k]:
            low, high = max(ints[LINE_START, k], left), min(ints[LINE_END, k], right)
            line = hashes[LINE_HASH, k]
            size_chars = ints[LINE_CHARS, k]
            if low > ints[LINE_START, k] or high < ints[LINE_END, k]:
                line = hash_line(data, low, high, ints[LINE_WORD, k], ints[LINE_WORD, k + 1], ints, hashes)
                size_chars = num_chars(data, low, high)
            h, chars, open_lines = finish(h ^ line) * MULTIPLIER, chars + size_chars + (open_lines > 0), open_lines + 1
        elif open_lines > 0:
            new = is_new(keys, size - 1, finish(h))
            count[AT.paragraphs] += 1
            count[AT.repeated_paragraphs] += not new
            count[AT.repeated_paragraph_chars] += 0 if new else chars
            h, chars, open_lines = SEED, 0, 0


@inner
def blocks(lines, events, keys, ints, hashes, count):
    """NeMo Curator's: the text cut at each double line feed, from the left; an odd line feed stays with what follows."""
    size = room_for(lines)
    keys[:size] = 0
    event, start = 0, 0
    while start < lines:
        h, chars, k = SEED, 0, start
        while True:
            h, chars = finish(h ^ hashes[LINE_HASH, k]) * MULTIPLIER, chars + ints[LINE_CHARS, k] + (k > start)
            # two line feeds in a row end a block: the next line is empty and is not the last
            if k + 1 >= lines or (k + 2 < lines and ints[LINE_END, k + 1] == ints[LINE_START, k + 1]):
                break
            k += 1
        new = is_new(keys, size - 1, finish(h))
        count[AT.blocks] += 1
        count[AT.block_chars] += chars
        count[AT.repeated_blocks] += not new
        count[AT.repeated_block_chars] += 0 if new else chars
        notice = False
        while event < events and ints[EVENT_AT, event] <= ints[LINE_END, k]:
            meaning = ints[EVENT, event]
            count[AT.lorem] |= meaning == LOREM
            notice = notice or meaning > LOREM
            event += 1
        count[AT.notice_blocks] += notice
        start = k + 2 if k + 1 < lines else lines
