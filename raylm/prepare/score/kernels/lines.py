"""Counts by line: at every line break (Gopher, C4), and at line feeds (FineWeb, NeMo Curator, mC4, Gopher's repetition rules)."""

from __future__ import annotations

import numpy as np

from raylm.prepare.score.kernels.bytes import MULTIPLIER, SEED, ends_with, finish, is_new, last_point, point_at, room_for
from raylm.prepare.score.kernels.scratch import (
    AT,
    BREAK_AT,
    BREAK_CHARS,
    BREAK_WIDTH,
    BREAK_WORDS,
    ENDS,
    EVENT,
    EVENT_AT,
    HAS_WORD,
    LINE_CHARS,
    LINE_END,
    LINE_HASH,
    LINE_START,
    LINE_WORD,
    WORD_CHARS,
    WORD_END,
    WORD_ENDS,
    WORD_HASH,
    WORD_START,
    inner,
)
from raylm.prepare.score.kernels.tables import CURLY, JAVASCRIPT, LOREM, POLICY, STOP

LONG_WORD_CHARS, LINE_WORDS = 1000, 3  # C4
BRIEF_CHARS, WIDE_CHARS = 30, 200  # FineWeb; mC4


@inner
def break_lines(data, low, high, breaks, words, events, ints, count):
    """Counts over lines as str.splitlines() cuts them: a carriage return and its line feed are one break."""
    start, word, event, k = low, 0, 0, 0
    while k <= breaks:
        if k < breaks:
            end, after = ints[BREAK_AT, k], ints[BREAK_AT, k] + ints[BREAK_WIDTH, k]
            word_end = ints[BREAK_WORDS, k]
            if k + 1 < breaks and data[end] == 13 and data[after] == 10 and ints[BREAK_AT, k + 1] == after:
                k, after = k + 1, after + 1
        else:
            end, after, word_end = high, high, words
        if end == high and start == high:
            break
        first_event = event
        while event < events and ints[EVENT_AT, event] < after:
            event += 1
        count[AT.lines] += 1
        if word_end > word:
            _break_line(data, word, word_end, first_event, event, ints, count)
        start, word, k = after, word_end, k + 1


@inner
def _break_line(data, word, word_end, event, event_end, ints, count):
    """Gopher's and C4's counts over one line that is not blank."""
    first, last = ints[WORD_START, word], ints[WORD_END, word_end - 1]
    dots = ends_with(data, first, last, b"...", False)
    count[AT.filled_lines] += 1
    count[AT.bullet_lines] += data[first] == 45 or point_at(data, first, last)[0] == 0x2022
    count[AT.ellipsis_lines] += dots or last_point(data, first, last) == 0x2026
    longest, sentences, inside = 0, 0, False
    for w in range(word, word_end):
        longest = max(longest, ints[WORD_CHARS, w + 1] - ints[WORD_CHARS, w])
        inside = inside or ints[WORD_ENDS, w] & HAS_WORD > 0
        if inside and ints[WORD_ENDS, w] & ENDS:
            sentences, inside = sentences + 1, False
    sentences += inside
    count[AT.sentences] += sentences
    if longest > LONG_WORD_CHARS:
        count[AT.long_word_lines] += 1
        return
    ended = _ends_c4(data, first, last)
    count[AT.open_lines] += not ended
    if word_end - word < LINE_WORDS:
        count[AT.short_lines] += ended
        return
    script = curly = lorem = policy = False
    for k in range(event, event_end):
        script = script or ints[EVENT, k] == JAVASCRIPT
        curly = curly or ints[EVENT, k] == CURLY
        lorem = lorem or ints[EVENT, k] == LOREM
        policy = policy or ints[EVENT, k] == POLICY
    curly = curly and not script
    count[AT.loose_lorem] |= lorem
    count[AT.loose_curly] |= curly
    kept = not (lorem or script or curly or policy)
    count[AT.loose_sentences] += sentences if kept else 0
    if ended:
        count[AT.strict_lorem] |= lorem
        count[AT.strict_curly] |= curly
        count[AT.javascript_lines] += script
        count[AT.policy_lines] += policy and not script
        count[AT.strict_lines] += kept
        count[AT.strict_sentences] += sentences if kept else 0


@inner
def _ends_c4(data, low, high):
    """Whether a line ends with one of . ? ! " ' and not with an ellipsis once the citations at its end are cut."""
    while high > low and data[high - 1] == 93:
        mark = high - 2
        while mark >= low and 48 <= data[mark] <= 57:
            mark -= 1
        if mark >= low and data[mark] == 91:
            high = mark
        elif ends_with(data, low, high, b"[edit]", False):
            high -= 6
        elif ends_with(data, low, high, b"[citation needed]", False):
            high -= 17
        else:
            return False
    return high > low and data[high - 1] in (46, 63, 33, 34, 39) and not ends_with(data, low, high, b"...", False)


@inner
def feed_lines(data, low, high, breaks, words, kinds, keys, ints, hashes, count):
    """Counts over lines between line feeds; fills the line arrays and returns the number of lines.

    `keys`: a table for room_for(breaks + 1)."""
    size = room_for(breaks + 1)
    keys[:size] = 0
    start, chars, word, line = low, 0, 0, 0
    for k in range(breaks + 1):
        if k < breaks and data[ints[BREAK_AT, k]] != 10:
            continue
        end = ints[BREAK_AT, k] if k < breaks else high
        end_chars = ints[BREAK_CHARS, k] if k < breaks else count[AT.chars]
        word_end = ints[BREAK_WORDS, k] if k < breaks else words
        h = hash_line(data, start, end, word, word_end, ints, hashes)
        ints[LINE_START, line], ints[LINE_END, line], hashes[LINE_HASH, line] = start, end, h
        ints[LINE_CHARS, line], ints[LINE_WORD, line] = end_chars - chars, word
        if end > start:
            new = is_new(keys, size - 1, h)
            count[AT.feed_lines] += 1
            count[AT.repeated_feed_lines] += not new
            count[AT.repeated_feed_line_chars] += 0 if new else end_chars - chars
            count[AT.wide_lines] += end_chars - chars >= WIDE_CHARS
            if word_end > word:
                _text_line(data, start, end, end_chars - chars, word, word_end, new, kinds, ints, count)
        start, chars, word, line = end + 1, end_chars + 1, word_end, line + 1
    ints[LINE_WORD, line] = words
    # what stands before the first and after the last run of line feeds is a line too, be it empty
    if high > low:
        leads, trails = data[low] == 10, data[high - 1] == 10
        count[AT.feed_lines] += leads + trails
        count[AT.repeated_feed_lines] += leads and trails
    return line


@inner
def _text_line(data, start, end, chars, word, word_end, new, kinds, ints, count):
    """FineWeb's and NeMo Curator's counts over one line that is not blank."""
    first, last = ints[WORD_START, word], ints[WORD_END, word_end - 1]
    count[AT.text_lines] += 1
    count[AT.text_line_chars] += chars
    count[AT.stop_text_lines] += kinds[last_point(data, start, end)] & STOP > 0
    count[AT.brief_text_lines] += chars <= BRIEF_CHARS
    count[AT.repeated_text_lines] += not new
    count[AT.repeated_text_line_chars] += 0 if new else chars
    final = data[last - 1]
    count[AT.open_text_lines] += final not in (46, 63, 33, 34, 39)
    if final == 46:
        count[AT.ellipsis_text_lines] += ends_with(data, first, last, b"...", False) or ends_with(
            data, first, last, b"read more..", True
        )
    elif final == 41:
        count[AT.ellipsis_text_lines] += ends_with(data, first, last, b"(...)", False)
    elif final == 93:
        count[AT.ellipsis_text_lines] += ends_with(data, first, last, b"[...]", False) or ends_with(
            data, first, last, b"[\xe2\x80\xa6]", False
        )
    elif final == 101 or final == 69:
        count[AT.ellipsis_text_lines] += ends_with(data, first, last, b"read more", True)
    else:
        count[AT.ellipsis_text_lines] += ends_with(data, first, last, b"\xe2\x80\xa6", False) or ends_with(
            data, first, last, b"-\xc2\xbb", False
        )
    point, _ = point_at(data, first, last)
    if point >= 0x2022:
        count[AT.bullet_text_lines] += point in (0x2022, 0x2023, 0x2043, 0x204C, 0x204D, 0x2219) or point in (
            0x25CB, 0x25CF, 0x25D8, 0x25E6, 0x29BE, 0x29BF
        )  # fmt: skip


@inner
def hash_line(data, low, high, word, word_end, ints, hashes):
    """64-bit hash of bytes [low, high) that hold the words [word, word_end): of the words' hashes and the bytes between."""
    h, i = SEED, low
    for w in range(word, word_end):
        for k in range(i, ints[WORD_START, w]):
            h = (h ^ np.uint64(data[k])) * MULTIPLIER
        h = finish(h ^ hashes[WORD_HASH, w])
        i = ints[WORD_END, w]
    for k in range(i, high):
        h = (h ^ np.uint64(data[k])) * MULTIPLIER
    return finish(h)
