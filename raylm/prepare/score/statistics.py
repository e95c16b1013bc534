"""The `statistics` score: the columns that the Gopher, C4, FineWeb and NeMo Curator rules need, in one pass.

Thresholds come later: filters and `between` read the columns, so that another threshold costs no second look at the text.

A *word* is what stands between white space (as str.split() cuts). A *token* is a word with the punctuation split off at both
ends, and inside where spaCy's English splits; Gopher's and FineWeb's rules count tokens (`num_words` are those with a letter,
mark or number), NeMo Curator's count words. In scripts that are written without spaces (Han, kana, Thai, Lao, Khmer, Burmese)
each letter, with its marks and the punctuation behind it, is a word; of a text that is mostly such, `mean_word_chars` is NaN,
which no rule drops. Characters are Unicode code points. `DIVERGENCES` lists where a score may differ
from the programs that the rules were taken from.

Sources: Gopher https://arxiv.org/abs/2112.11446, C4 https://arxiv.org/abs/1910.10683, FineWeb https://arxiv.org/abs/2406.17557,
NeMo Curator 1.4.0's heuristic_filter_english_pipeline.yaml, datatrove 0.10.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Family = Literal["gopher", "fineweb", "c4", "nemo"]

_GOPHER = (
    *("num_words", "mean_word_chars", "hash_word_ratio", "ellipsis_word_ratio", "bullet_line_share", "ellipsis_line_share"),
    *("alpha_word_share", "num_stop_words", "dup_line_share", "dup_line_char_share", "dup_paragraph_share"),
    *("dup_paragraph_char_share", *(f"top_{n}gram_char_share" for n in (2, 3, 4))),
    *(f"dup_{n}gram_char_share" for n in range(5, 11)),
)
_FINEWEB = ("num_lines", "end_punct_line_share", "short_line_share", "dup_text_line_char_share", "newline_word_ratio")
_C4 = (
    *("num_sentences", "num_long_lines", "c4_num_sentences", "c4_lorem_ipsum", "c4_curly_bracket"),
    *("c4_any_end_num_sentences", "c4_any_end_lorem_ipsum", "c4_any_end_curly_bracket", "c4_kept_line_share"),
    *("c4_long_word_line_share", "c4_open_line_share", "c4_short_line_share", "c4_javascript_line_share"),
    "c4_policy_line_share",
)
_NEMO = (
    *("nemo_non_alphanumeric_share", "nemo_symbol_word_share", "nemo_digit_share", "nemo_url_char_share"),
    *("nemo_white_space_share", "nemo_bracket_share", "nemo_boilerplate_share", "nemo_unique_line_share"),
    *("nemo_unique_paragraph_share", "nemo_unique_line_char_share", "nemo_unique_paragraph_char_share", "nemo_num_words"),
    *("nemo_open_line_share", "nemo_alpha_word_share", "nemo_num_common_words", "nemo_mean_word_chars"),
    *("nemo_longest_word_chars", "nemo_ellipsis_line_share", *(f"nemo_top_{n}gram_char_share" for n in (2, 3, 4))),
    *(f"nemo_dup_{n}gram_char_share" for n in range(5, 11)),
    "nemo_bullet_line_share",
)
COLUMNS: dict[str, tuple[str, ...]] = {"gopher": _GOPHER, "fineweb": _FINEWEB, "c4": _C4, "nemo": _NEMO}

DIVERGENCES = {
    "unspaced": "a letter of a script without spaces is a word; datatrove segments Chinese, Japanese and Thai by a library for "
    "each language, NeMo Curator takes what stands between spaces, a whole paragraph, for one word",
    "num_words": "datatrove asks spaCy for words; here only its rules for marks at both ends, hyphens between letters and "
    "contractions are kept, not its lists of abbreviations, units and emoticons: one rule for all languages, and 60 times faster",
    "token_punctuation": "a token is punctuation when it has no letter, mark or number; datatrove has a list of 160 characters, "
    "which takes a bullet or an emoji for a word",
    "dup_ngram": "n-grams are compared word by word; datatrove compares them joined, so that `ab c` equals `a bc`",
    "num_sentences": "a sentence ends at an end mark before white space, closing quotes and brackets aside; C4 used nltk's "
    "punkt, datatrove uses spaCy, which both know abbreviations",
    "c4_phrases": "phrases are looked for before citations are cut, in ASCII lower case",
    "nemo_top_ngram": "of equally frequent n-grams the earliest counts; NeMo Curator takes one by the order of a hash set, so "
    "that its score changes from run to run",
    "nemo_num_common_words": "all are counted; NeMo Curator stops at two",
    "nemo_boilerplate_share": "of the three long cookie notices one telling phrase each is looked for",
    "nemo_alpha_word_share": "a letter is what str.isalpha() says; NeMo Curator adds letter-like numbers and vowel signs",
    "no_words": "a text without words scores 0 (1 for the n-grams); NeMo Curator raises ZeroDivisionError",
}


class Statistics(Config):
    """Counts everything once; 69 columns of 4 bytes a document with all families."""

    kind: Literal["statistics"] = "statistics"
    families: tuple[Family, ...] = Field(default=("gopher", "fineweb", "c4", "nemo"), min_length=1)
    """Whose columns are kept; all are counted in the same pass."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words of `num_stop_words` and `nemo_num_common_words`, in this spelling; at most 62."""

    @field_validator("stop_words")
    @classmethod
    def _fits_a_mask(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if len(words) > 62 or len(set(words)) < len(words) or any(not word or len(word.split()) != 1 for word in words):
            raise ValueError("stop_words must be at most 62 different words without white space")
        return words

    def columns(self) -> tuple[str, ...]:
        """`num_chars` and the columns of the configured families."""
        return ("num_chars", *(name for family in self.families for name in COLUMNS[family]))

    def score(self, table: pa.Table) -> dict[str, np.ndarray]:
        """int32 and float32 columns, one value per row.

        Raises:
            ConfigError: numba finds no folder to keep its compiled code in.
        """
        try:
            from raylm.prepare.score.kernels.documents import count_documents
        except RuntimeError as cause:  # numba looks for the folder when the kernel is defined
            raise ConfigError(
                f"the text kernels cannot be kept: {cause}", next="set NUMBA_CACHE_DIR to a folder that can be written"
            ) from cause
        from raylm.prepare.score.kernels.shares import statistics

        data, offsets = _buffers(table)
        values = statistics(count_documents(data, offsets, self.stop_words))
        return {name: values[name] for name in self.columns()}


def _buffers(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 text, int64[N + 1] offsets) of the text column; a view where the column is one chunk."""
    import numpy as np
    import pyarrow as pa

    text = table["text"].combine_chunks()
    if isinstance(text, pa.ChunkedArray):
        text = text.chunk(0) if text.num_chunks else pa.array([], pa.large_string())
    text = text.cast(pa.large_string())
    if text.null_count:
        text = text.fill_null("")
    _, offsets, data = text.buffers()
    places = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1] if offsets else np.zeros(1, np.int64)
    return (np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)), places
