"""Buffers of the text kernels, reused from text to text, and the record of counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

# a kernel that only kernels call: no wrappers for Python and C, which are a sixth of the time to compile
inner = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
GRAM_BASE = np.uint64(0x9FB21C651E98DF25)
# bits of `Scratch.word_ends`: a sentence ends here; the word has a letter, mark or number
ENDS, HAS_WORD = 1, 2


class Counts(NamedTuple):
    """All that is counted in one text, whole numbers only. `token` is Gopher's word (punctuation split off), `word` is what
    stands between white space; a `text` line is one between line feeds that is not blank; a `block` is what stands between
    double line feeds; `strict` and `loose` are C4's rules with and without the one about the end of a line."""

    chars: Any
    tokens: Any
    token_words: Any  # tokens with a letter, mark or number
    token_chars: Any  # of these
    token_singles: Any  # of these, words of scripts that are written without spaces
    alpha_tokens: Any
    stop_mask: Any  # bit k: the stop word k is a token
    words: Any
    word_chars: Any
    alpha_words: Any
    stop_words: Any
    symbol_words: Any
    longest_word: Any
    ellipses: Any
    url_chars: Any
    digits: Any
    plain_chars: Any  # ASCII letters, digits, line feeds and ? ! , .
    blank_chars: Any  # space, tab, line feed, carriage return, backspace
    brackets: Any
    hashes: Any
    newlines: Any
    lines: Any  # at any line break, blank ones too
    bullet_lines: Any
    ellipsis_lines: Any
    sentences: Any
    filled_lines: Any  # at any line break, not blank
    long_word_lines: Any  # C4's five reasons, and what is left
    open_lines: Any
    short_lines: Any
    javascript_lines: Any
    policy_lines: Any
    strict_lines: Any
    strict_sentences: Any
    strict_lorem: Any
    strict_curly: Any
    loose_sentences: Any
    loose_lorem: Any
    loose_curly: Any
    text_lines: Any
    text_line_chars: Any
    stop_text_lines: Any
    open_text_lines: Any
    brief_text_lines: Any
    ellipsis_text_lines: Any
    bullet_text_lines: Any
    repeated_text_lines: Any
    repeated_text_line_chars: Any
    wide_lines: Any  # 200 characters or more
    feed_lines: Any  # between runs of line feeds, blank ones too
    repeated_feed_lines: Any
    repeated_feed_line_chars: Any
    paragraphs: Any
    repeated_paragraphs: Any
    repeated_paragraph_chars: Any
    blocks: Any
    block_chars: Any
    repeated_blocks: Any
    repeated_block_chars: Any
    notice_blocks: Any
    lorem: Any
    token_top: Any  # three, for 2 to 4 tokens: characters under the most frequent n-gram
    token_top_3: Any
    token_top_4: Any
    token_again: Any  # six, for 5 to 10 tokens
    token_again_6: Any
    token_again_7: Any
    token_again_8: Any
    token_again_9: Any
    token_again_10: Any
    word_top: Any  # three
    word_top_3: Any
    word_top_4: Any
    word_covered: Any  # six
    word_covered_6: Any
    word_covered_7: Any
    word_covered_8: Any
    word_covered_9: Any
    word_covered_10: Any
    dots_end: Any  # where the scan stands: after a run of full stops, after a URL
    url_end: Any


AT = Counts(*range(len(Counts._fields)))


# rows of the whole numbers held of one text. Sums run from 0, so that [i, j) of them is sum[j] - sum[i]
(
    WORD_START,  # bytes, counted from the start of the whole buffer
    WORD_END,
    WORD_CHARS,  # running sum
    WORD_ENDS,  # bits ENDS and HAS_WORD
    TOKEN_CHARS,  # running sum
    BREAK_AT,  # line breaks: byte, width in bytes, characters and words before it
    BREAK_WIDTH,
    BREAK_CHARS,
    BREAK_WORDS,
    EVENT_AT,  # phrases: byte, meaning
    EVENT,
    LINE_START,  # lines between line feeds: bytes, characters, first word at or after the start
    LINE_END,
    LINE_CHARS,
    LINE_WORD,
    NUM_INTS,
) = range(16)
# rows of 64-bit hashes; the sums are polynomials of the hashes before
WORD_HASH, WORD_SUM, TOKEN_SUM, LINE_HASH, NUM_HASHES = range(5)


@inner
def scratch_of(room):
    """(int64[NUM_INTS, room + 2], uint64[NUM_HASHES, room + 2]) for a text of up to `room` words, tokens, breaks and phrases."""
    return np.zeros((NUM_INTS, room + 2), np.int64), np.zeros((NUM_HASHES, room + 2), np.uint64)
