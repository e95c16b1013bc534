"""Tokens of one word (what stands between white space): punctuation split off at both ends, and where English splits inside
(hyphens between letters, contractions)."""

from __future__ import annotations

from raylm.prepare.score.kernels.bytes import hash_of, point_at
from raylm.prepare.score.kernels.scratch import AT, GRAM_BASE, TOKEN_CHARS, TOKEN_SUM, inner
from raylm.prepare.score.kernels.tables import ALPHA, LOWER, UNSPACED, UPPER, WORD


@inner
def _add_token(h, chars, seen, stops, tokens, ints, hashes, count):
    """Appends one token; returns the number of tokens so far."""
    hashes[TOKEN_SUM, tokens + 1] = hashes[TOKEN_SUM, tokens] * GRAM_BASE + h
    ints[TOKEN_CHARS, tokens + 1] = ints[TOKEN_CHARS, tokens] + chars
    if seen & WORD:
        count[AT.token_words] += 1
        count[AT.token_chars] += chars
        count[AT.token_singles] += (seen & UNSPACED) > 0
        count[AT.alpha_tokens] += (seen & ALPHA) > 0
        for k in range(len(stops)):
            if stops[k] == h:
                count[AT.stop_mask] |= 1 << k
    return tokens + 1


@inner
def split(data, start, end, kinds, stops, tokens, ints, hashes, count):
    """Appends the tokens of a word with punctuation in it; returns the number of tokens so far.

    The core runs from the first to the last letter, mark or number; each character outside is a token of its own, but runs of
    full stops and of hyphens stay together.
    """
    left, right, i = -1, start, start
    while i < end:
        point, width = point_at(data, i, end)
        if kinds[point] & WORD:
            left = i if left < 0 else left
            right = i + width
        i += width
    if left < 0:
        return _marks(data, start, end, stops, tokens, ints, hashes, count)
    tokens = _marks(data, start, left, stops, tokens, ints, hashes, count)
    cut = _contraction(data, left, right)
    tokens = _core(data, left, cut, kinds, stops, tokens, ints, hashes, count)
    if cut < right:
        tokens = _piece(data, cut, right, kinds, stops, tokens, ints, hashes, count)
    return _marks(data, right, end, stops, tokens, ints, hashes, count)


@inner
def _marks(data, low, high, stops, tokens, ints, hashes, count):
    i = low
    while i < high:
        _, width = point_at(data, i, high)
        end, chars = i + width, 1
        while end < high and (data[i] == 46 or data[i] == 45) and data[end] == data[i]:
            end, chars = end + 1, chars + 1
        tokens = _add_token(hash_of(data, i, end), chars, 0, stops, tokens, ints, hashes, count)
        i = end
    return tokens


@inner
def _core(data, low, high, kinds, stops, tokens, ints, hashes, count):
    """Splits at marks that stand between the right neighbours; a URL stays whole."""
    start, i, before, inside = low, low, 0, _is_url(data, low, high)
    while i < high:
        point, width = point_at(data, i, high)
        kind = kinds[point]
        if inside or kind & WORD:
            before, i = kind, i + width
            continue
        end = i + width
        while end < high and (point == 46 or point == 45) and data[end] == point:
            end += 1
        after = 0
        if end < high:
            next_point, _ = point_at(data, end, high)
            after = kinds[next_point]
        if start < i and _splits(point, before, after, end - i):
            tokens = _piece(data, start, i, kinds, stops, tokens, ints, hashes, count)
            tokens = _marks(data, i, end, stops, tokens, ints, hashes, count)
            start = end
        before, i = kind, end
    return _piece(data, start, high, kinds, stops, tokens, ints, hashes, count) if start < high else tokens


@inner
def _splits(point, before, after, width):
    """Whether a mark between these neighbours parts two tokens (after the infix rules of spaCy's English)."""
    if point == 0x2026 or (point == 46 and width > 1):
        return True
    if point in (0x2D, 0x2013, 0x2014, 0x7E) or point == 0x2C:
        return before & ALPHA > 0 and after & ALPHA > 0
    if point == 46:
        return before & LOWER > 0 and after & UPPER > 0
    return point in (0x3A, 0x3C, 0x3E, 0x3D, 0x2F) and before & WORD > 0 and after & ALPHA > 0


@inner
def _piece(data, low, high, kinds, stops, tokens, ints, hashes, count):
    seen, chars, i = 0, 0, low
    while i < high:
        point, width = point_at(data, i, high)
        seen |= kinds[point]
        chars, i = chars + 1, i + width
    return _add_token(hash_of(data, low, high), chars, seen, stops, tokens, ints, hashes, count)


@inner
def _is_url(data, low, high):
    for i in range(low, high - 2):  # noqa: SIM110 (numba compiles no any())
        if data[i] == 58 and data[i + 1] == 47 and data[i + 2] == 47:
            return True
    return False


@inner
def _contraction(data, low, high):
    """Where 's, 'm, 're, 've, 'll or n't starts at the end of a core with more before it; else `high`."""
    last = data[high - 1] | 32
    size = 1 if last in (115, 109, 116) else 2 if high - 2 >= low and last in (101, 108) else 0
    if size == 0:
        return high
    if size == 2:
        first = data[high - 2] | 32
        if not (first == last == 108 or (last == 101 and first in (114, 118))):
            return high
    mark = high - size
    if mark - 1 >= low and data[mark - 1] == 39:
        mark -= 1
    elif mark - 3 >= low and data[mark - 3] == 0xE2 and data[mark - 2] == 0x80 and data[mark - 1] == 0x99:
        mark -= 3
    else:
        return high
    if last == 116:
        if mark - 1 < low or data[mark - 1] | 32 != 110:
            return high
        mark -= 1
    return mark if mark > low else high
