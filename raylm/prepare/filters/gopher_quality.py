"""The `gopher_quality` filter: Gopher's quality rules, over the `statistics` columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.filters.rules import first_reasons
from raylm.prepare.filters.verdicts import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa


class GopherQuality(Config):
    """Rae et al. 2021, section A1.1 (https://arxiv.org/abs/2112.11446), with the defaults of the paper and of datatrove."""

    kind: Literal["gopher_quality"] = "gopher_quality"
    reads: ClassVar[tuple[str, ...]] = (
        *("num_words", "mean_word_chars", "hash_word_ratio", "ellipsis_word_ratio", "bullet_line_share"),
        *("ellipsis_line_share", "alpha_word_share", "num_stop_words"),
    )
    min_words: int = Field(default=50, ge=0)
    """Fewest words that are not pure punctuation."""
    max_words: int = Field(default=100_000, gt=0)
    """Most of them."""
    min_mean_word_chars: float = Field(default=3, ge=0)
    """Smallest mean length of a word, in characters."""
    max_mean_word_chars: float = Field(default=10, gt=0)
    """Largest mean length of a word, in characters."""
    max_symbol_word_ratio: float = Field(default=0.1, ge=0)
    """Most hash signs, and most ellipses, per word."""
    max_bullet_line_share: float = Field(default=0.9, ge=0, le=1)
    """Largest share of lines that start with a bullet."""
    max_ellipsis_line_share: float = Field(default=0.3, ge=0, le=1)
    """Largest share of lines that end with an ellipsis."""
    min_alpha_word_share: float = Field(default=0.8, ge=0, le=1)
    """Smallest share of words with a letter in them."""
    min_stop_words: int = Field(default=2, ge=0)
    """Fewest different stop words."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: gopher_too_few_words and the like; the first rule that fails names it. DataError without the columns."""
        return first_reasons(
            table,
            [
                ("gopher_too_few_words", "num_words", "<", self.min_words),
                ("gopher_too_many_words", "num_words", ">", self.max_words),
                ("gopher_short_words", "mean_word_chars", "<", self.min_mean_word_chars),
                ("gopher_long_words", "mean_word_chars", ">", self.max_mean_word_chars),
                ("gopher_hashes", "hash_word_ratio", ">", self.max_symbol_word_ratio),
                ("gopher_ellipses", "ellipsis_word_ratio", ">", self.max_symbol_word_ratio),
                ("gopher_bullet_lines", "bullet_line_share", ">", self.max_bullet_line_share),
                ("gopher_ellipsis_lines", "ellipsis_line_share", ">", self.max_ellipsis_line_share),
                ("gopher_few_alpha_words", "alpha_word_share", "<", self.min_alpha_word_share),
                ("gopher_few_stop_words", "num_stop_words", "<", self.min_stop_words),
            ],
        )
