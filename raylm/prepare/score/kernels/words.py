"""The one scan over a text's bytes: words, tokens, line breaks and phrases."""

from __future__ import annotations

import numpy as np
from numba import njit

from raylm.prepare.score.kernels.bytes import MULTIPLIER, SEED, finish, phrase_at, point_at, url_end
from raylm.prepare.score.kernels.scratch import (
    AT,
    BREAK_AT,
    BREAK_CHARS,
    BREAK_WIDTH,
    BREAK_WORDS,
    ENDS,
    EVENT,
    EVENT_AT,
    GRAM_BASE,
    HAS_WORD,
    TOKEN_CHARS,
    TOKEN_SUM,
    WORD_CHARS,
    WORD_END,
    WORD_ENDS,
    WORD_HASH,
    WORD_START,
    WORD_SUM,
    inner,
)
from raylm.prepare.score.kernels.tables import ALPHA, BREAK, DIGIT, PUNCTUATION, SPACE, STOP, TRIGGER, UNSPACED, WORD
from raylm.prepare.score.kernels.tokens import split


@inner
def scan(data, low, high, of_bytes, kinds, first, phrases, stops, ints, hashes, count):
    """Fills the arrays from bytes [low, high). Returns (words, tokens, breaks, events), or words = -1 when they are too short."""
    room = ints.shape[1] - 2
    count[:] = 0
    words = tokens = breaks = events = chars = 0
    i = low
    while i < high:
        kind, width = _kind_at(data, i, high, of_bytes, kinds)
        if kind & SPACE:
            if kind & BREAK:
                if breaks == room:
                    return -1, 0, 0, 0
                ints[BREAK_AT, breaks], ints[BREAK_WIDTH, breaks] = i, width
                ints[BREAK_CHARS, breaks], ints[BREAK_WORDS, breaks] = chars, words
                breaks += 1
            chars += 1
            i += width
            continue
        start, before, seen, h = i, chars, 0, SEED
        # a letter of a script without spaces takes its marks and the punctuation behind it along
        ends = SPACE | UNSPACED | (ALPHA | DIGIT if kind & UNSPACED else 0)
        while True:
            seen |= kind
            if kind & TRIGGER:
                if events == room:
                    return -1, 0, 0, 0
                events = _notice(data, low, high, i, kinds, first, phrases, ints, count, events)
            for k in range(i, i + width):
                h = (h ^ np.uint64(data[k])) * MULTIPLIER
            chars += 1
            i += width
            if i >= high:
                break
            kind, width = _kind_at(data, i, high, of_bytes, kinds)
            if kind & ends:
                break
        if words == room or tokens + i - start > room:
            return -1, 0, 0, 0
        h, size = finish(h), chars - before
        ints[WORD_START, words], ints[WORD_END, words], hashes[WORD_HASH, words] = start, i, h
        hashes[WORD_SUM, words + 1] = hashes[WORD_SUM, words] * GRAM_BASE + h
        ints[WORD_CHARS, words + 1] = ints[WORD_CHARS, words] + size
        ints[WORD_ENDS, words] = HAS_WORD if seen & WORD else 0
        count[AT.longest_word] = max(count[AT.longest_word], size)
        count[AT.alpha_words] += (seen & ALPHA) > 0
        stop = -1
        for k in range(len(stops)):
            if stops[k] == h:
                stop = k
        count[AT.stop_words] += stop >= 0
        if seen & PUNCTUATION:
            if seen & STOP and _ends_sentence(data, start, i, kinds):
                ints[WORD_ENDS, words] |= ENDS
            count[AT.symbol_words] += _is_symbol(data, start, i, size)
            tokens = split(data, start, i, kinds, stops, tokens, ints, hashes, count)
        else:  # the word is a token: tokens.add_token, written out for speed
            hashes[TOKEN_SUM, tokens + 1] = hashes[TOKEN_SUM, tokens] * GRAM_BASE + h
            ints[TOKEN_CHARS, tokens + 1] = ints[TOKEN_CHARS, tokens] + size
            count[AT.token_words] += 1
            count[AT.token_chars] += size
            count[AT.token_singles] += (seen & UNSPACED) > 0
            count[AT.alpha_tokens] += (seen & ALPHA) > 0
            if stop >= 0:
                count[AT.stop_mask] |= 1 << stop
            tokens += 1
        words += 1
    count[AT.chars], count[AT.words], count[AT.tokens], count[AT.word_chars] = chars, words, tokens, ints[WORD_CHARS, words]
    return words, tokens, breaks, events


@njit(nogil=True, inline="always")
def _kind_at(data, i, high, of_bytes, kinds):
    """(bits, width) of the character at byte i."""
    byte = data[i]
    if byte < 128:
        return np.int64(of_bytes[byte]), 1
    return _wide_kind(data, i, high, kinds)


@inner
def _wide_kind(data, i, high, kinds):
    point, width = point_at(data, i, high)
    kind = np.int64(kinds[point])
    if kind & DIGIT:
        kind |= TRIGGER
    elif not kind & (SPACE | WORD):
        kind |= PUNCTUATION
        if point == 0x2026 or point == 0x27E8 or point == 0x27E9:
            kind |= TRIGGER
    return kind, width


@inner
def _notice(data, low, high, i, kinds, first, phrases, ints, count, events):
    """Counts what the byte at i starts or gives away: ellipses, URLs, rare brackets and digits; adds a phrase to the events."""
    byte = data[i]
    if byte >= 128:
        point, _ = point_at(data, i, high)
        if point == 0x2026:
            count[AT.ellipses] += 1
        elif kinds[point] & DIGIT:
            count[AT.digits] += 1
        else:
            count[AT.brackets] += 1
    elif byte == 46:
        if i >= low + count[AT.dots_end]:
            end = i
            while end < high and data[end] == 46:
                end += 1
            count[AT.ellipses] += (end - i) // 3
            count[AT.dots_end] = end - low
    elif byte == 58:
        end, start = url_end(data, low, high, i)
        if end > 0 and start >= low + count[AT.url_end]:
            count[AT.url_chars] += end - start
            count[AT.url_end] = end - low
    else:
        meaning, start = phrase_at(data, low, high, i, first, phrases)
        if meaning < 255:
            ints[EVENT_AT, events], ints[EVENT, events] = start, meaning
            return events + 1
    return events


@inner
def _is_symbol(data, start, end, chars):
    """NeMo Curator's symbol words: an ellipsis mark, or runs of `#` that are more than half as many as characters."""
    runs = 0
    for i in range(start, end):
        runs += data[i] == 35 and (i == start or data[i - 1] != 35)
    if 2 * runs > chars:
        return True
    low, high, first, last = start, end, data[start], data[end - 1]
    if (first == 91 and last == 93) or (first == 40 and last == 41 and end - start == 5):
        low, high = start + 1, end - 1
    if high - low != 3:
        return start + 3 == end and first == 45 and data[start + 1] == 0xC2 and last == 0xBB  # -»
    dots = data[low] == 46 and data[low + 1] == 46 and data[low + 2] == 46
    wide = data[low] == 0xE2 and data[low + 1] == 0x80 and data[low + 2] == 0xA6
    return dots or (wide and first != 40) or (start + 3 == end and first == 45 and data[start + 1] == 0xC2 and last == 0xBB)


@inner
def _ends_sentence(data, start, end, kinds):
    """Whether a sentence's end mark is the last character of a word, closing quotes and brackets aside."""
    i = end
    while i > start:
        step = i - 1
        while step > start and (data[step] & 0xC0) == 0x80:
            step -= 1
        point, _ = point_at(data, step, end)
        if kinds[point] & STOP:
            return True
        closing = point in (0x22, 0x27, 0x29, 0x5D, 0x7D, 0x2019, 0x201D, 0xBB, 0x300D, 0xFF09)
        if not closing:
            return False
        i = step
    return False
