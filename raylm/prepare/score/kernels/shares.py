"""The named statistics of the rules, computed from counts: ratios and means as columns."""

from __future__ import annotations

import numpy as np

from raylm.prepare.score.kernels.scratch import Counts

Columns = dict[str, np.ndarray]


def statistics(c: Counts) -> Columns:
    """int32 columns (`num_...`, `c4_...lorem_ipsum`, `c4_...curly_bracket`) and float32 columns of everything that is counted.

    A share of nothing is 0, but where NeMo Curator scores an empty text 1.
    """
    columns: Columns = {"num_chars": c.chars}
    for family in (_gopher, _fineweb, _c4, _nemo):
        columns |= family(c)
    return {
        name: column.astype(np.int32 if np.issubdtype(column.dtype, np.integer) else np.float32)
        for name, column in columns.items()
    }


def _share(part: np.ndarray, whole: np.ndarray, of_nothing: float = 0.0) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), of_nothing), where=whole > 0)


def _gopher(c: Counts) -> Columns:
    """Rae et al. 2021, section A1.1, as datatrove counts it; words are tokens, lines end at any line break."""
    columns = {
        "num_words": c.token_words,
        # a character that is a word has no length to judge by
        "mean_word_chars": np.where(
            2 * c.token_singles > c.token_words, np.nan, _share(c.token_chars - c.token_singles, c.token_words - c.token_singles)
        ),
        "hash_word_ratio": _share(c.hashes, c.tokens),
        "ellipsis_word_ratio": _share(c.ellipses, c.tokens),
        "bullet_line_share": _share(c.bullet_lines, c.lines),
        "ellipsis_line_share": _share(c.ellipsis_lines, c.lines),
        "alpha_word_share": _share(c.alpha_tokens, c.tokens),
        "num_stop_words": np.bitwise_count(c.stop_mask),
        "dup_line_share": _share(c.repeated_feed_lines, c.feed_lines),
        "dup_line_char_share": _share(c.repeated_feed_line_chars, c.chars),
        "dup_paragraph_share": _share(c.repeated_paragraphs, c.paragraphs),
        "dup_paragraph_char_share": _share(c.repeated_paragraph_chars, c.chars),
    }
    for n in (2, 3, 4):
        columns[f"top_{n}gram_char_share"] = _share(c[Counts._fields.index("token_top") + n - 2], c.chars)
    for n in range(5, 11):
        columns[f"dup_{n}gram_char_share"] = _share(c[Counts._fields.index("token_again") + n - 5], c.chars)
    return columns


def _fineweb(c: Counts) -> Columns:
    """Lines between line feeds that are not blank (Penedo et al. 2024, https://arxiv.org/abs/2406.17557)."""
    return {
        "num_lines": c.text_lines,
        "end_punct_line_share": _share(c.stop_text_lines, c.text_lines),
        "short_line_share": _share(c.brief_text_lines, c.text_lines),
        "dup_text_line_char_share": _share(c.repeated_text_line_chars, c.chars - c.newlines),
        "newline_word_ratio": _share(c.newlines, c.tokens),
    }


def _c4(c: Counts) -> Columns:
    """Raffel et al. 2020 (https://arxiv.org/abs/1910.10683); `any_end`: without the rule about the end of a line."""
    return {
        "num_sentences": c.sentences,
        "num_long_lines": c.wide_lines,
        "c4_num_sentences": c.strict_sentences,
        "c4_lorem_ipsum": c.strict_lorem,
        "c4_curly_bracket": c.strict_curly,
        "c4_any_end_num_sentences": c.loose_sentences,
        "c4_any_end_lorem_ipsum": c.loose_lorem,
        "c4_any_end_curly_bracket": c.loose_curly,
        "c4_kept_line_share": _share(c.strict_lines, c.filled_lines),
        "c4_long_word_line_share": _share(c.long_word_lines, c.filled_lines),
        "c4_open_line_share": _share(c.open_lines, c.filled_lines),
        "c4_short_line_share": _share(c.short_lines, c.filled_lines),
        "c4_javascript_line_share": _share(c.javascript_lines, c.filled_lines),
        "c4_policy_line_share": _share(c.policy_lines, c.filled_lines),
    }


def _nemo(c: Counts) -> Columns:
    """The 28 scores of NeMo Curator's English heuristics, in the order of its pipeline; words stand between white space."""
    columns = {
        "nemo_non_alphanumeric_share": _share(c.chars - c.plain_chars, c.chars, 1.0),
        "nemo_symbol_word_share": _share(c.symbol_words, c.words),
        "nemo_digit_share": _share(c.digits, c.chars, 1.0),
        "nemo_url_char_share": _share(c.url_chars, c.chars, 1.0),
        "nemo_white_space_share": _share(c.blank_chars, c.chars, 1.0),
        "nemo_bracket_share": _share(c.brackets, c.chars, 1.0),
        "nemo_boilerplate_share": np.where(c.lorem > 0, 1.0, _share(c.notice_blocks, c.blocks)),
        "nemo_unique_line_share": 1 - _share(c.repeated_text_lines, c.text_lines),
        "nemo_unique_paragraph_share": 1 - _share(c.repeated_blocks, c.blocks),
        "nemo_unique_line_char_share": 1 - _share(c.repeated_text_line_chars, c.text_line_chars),
        "nemo_unique_paragraph_char_share": 1 - _share(c.repeated_block_chars, c.block_chars),
        "nemo_num_words": c.words,
        "nemo_open_line_share": _share(c.open_text_lines, c.text_lines),
        "nemo_alpha_word_share": _share(c.alpha_words, c.words),
        "nemo_num_common_words": c.stop_words,
        "nemo_mean_word_chars": _share(c.word_chars, c.words),
        "nemo_longest_word_chars": c.longest_word,
        "nemo_ellipsis_line_share": _share(c.ellipsis_text_lines, c.text_lines),
    }
    for n in (2, 3, 4):
        top = _share(c[Counts._fields.index("word_top") + n - 2], c.chars)
        columns[f"nemo_top_{n}gram_char_share"] = np.where(c.words < n, 1.0, top)
    for n in range(5, 11):
        covered = _share(c[Counts._fields.index("word_covered") + n - 5], c.chars)
        columns[f"nemo_dup_{n}gram_char_share"] = np.where(c.words < n, 1.0, covered)
    columns["nemo_bullet_line_share"] = _share(c.bullet_text_lines, c.text_lines)
    return columns
