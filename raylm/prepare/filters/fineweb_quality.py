"""The `fineweb_quality` filter: FineWeb's own rules, over the `statistics` columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.filters.rules import first_reasons
from raylm.prepare.filters.verdicts import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa


class FinewebQuality(Config):
    """Penedo et al. 2024, section 3.6 (https://arxiv.org/abs/2406.17557), over lines that are not blank."""

    kind: Literal["fineweb_quality"] = "fineweb_quality"
    reads: ClassVar[tuple[str, ...]] = (
        *("num_lines", "end_punct_line_share", "short_line_share", "dup_text_line_char_share", "newline_word_ratio"),
    )
    min_end_punct_line_share: float = Field(default=0.12, ge=0, le=1)
    """Smallest share of lines that end with an end mark."""
    max_short_line_share: float = Field(default=0.67, ge=0, le=1)
    """Largest share of lines of 30 characters or less."""
    max_dup_line_char_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of characters in lines that stood before."""
    max_newline_word_ratio: float = Field(default=0.3, ge=0)
    """Most line feeds per word: a list otherwise."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: fineweb_empty, fineweb_few_end_marks, fineweb_short_lines, fineweb_dup_lines, fineweb_list. DataError
        without the columns."""
        return first_reasons(
            table,
            [
                ("fineweb_empty", "num_lines", "<", 1),
                ("fineweb_few_end_marks", "end_punct_line_share", "<", self.min_end_punct_line_share),
                ("fineweb_short_lines", "short_line_share", ">", self.max_short_line_share),
                ("fineweb_dup_lines", "dup_text_line_char_share", ">", self.max_dup_line_char_share),
                ("fineweb_list", "newline_word_ratio", ">", self.max_newline_word_ratio),
            ],
        )
