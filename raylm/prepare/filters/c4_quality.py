"""The `c4_quality` filter: C4's rules about whole pages, over the `statistics` columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.filters.rules import first_reasons
from raylm.prepare.filters.verdicts import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa


class C4Quality(Config):
    """Raffel et al. 2020 (https://arxiv.org/abs/1910.10683). Only lines that `c4_lines` keeps count, whether it ran or not."""

    kind: Literal["c4_quality"] = "c4_quality"
    reads: ClassVar[tuple[str, ...]] = (
        *("c4_num_sentences", "c4_lorem_ipsum", "c4_curly_bracket", "num_long_lines"),
        *("c4_any_end_num_sentences", "c4_any_end_lorem_ipsum", "c4_any_end_curly_bracket"),
    )
    terminal_punctuation: bool = True
    """Whether a line counts only when it ends with . ? ! " or '; FineWeb sets false (and says so to `c4_lines` too)."""
    min_sentences: int = Field(default=5, ge=0)
    """Fewest sentences in the lines that stay."""
    lorem_ipsum: bool = True
    """Drops a document with "lorem ipsum" in such a line."""
    curly_bracket: bool = True
    """Drops a document with "{" in such a line."""
    min_long_lines: int = Field(default=0, ge=0)
    """Fewest lines of 200 characters or more; mC4 asks for 3."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: c4_lorem_ipsum, c4_curly_bracket, c4_too_few_sentences, c4_few_long_lines. DataError without the columns."""
        ends = "c4_" if self.terminal_punctuation else "c4_any_end_"
        return first_reasons(
            table,
            [
                ("c4_lorem_ipsum", f"{ends}lorem_ipsum", ">", 0 if self.lorem_ipsum else 1),
                ("c4_curly_bracket", f"{ends}curly_bracket", ">", 0 if self.curly_bracket else 1),
                ("c4_too_few_sentences", f"{ends}num_sentences", "<", self.min_sentences),
                ("c4_few_long_lines", "num_long_lines", "<", self.min_long_lines),
            ],
        )
