"""The `gopher_repetition` filter: Gopher's rules about repetition, over the `statistics` columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.filters.rules import first_reasons
from raylm.prepare.filters.verdicts import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa

_TOP, _DUP = (2, 3, 4), (5, 6, 7, 8, 9, 10)


class GopherRepetition(Config):
    """Rae et al. 2021, table A1 (https://arxiv.org/abs/2112.11446); characters are a share of the whole text's."""

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    reads: ClassVar[tuple[str, ...]] = (
        *("dup_paragraph_share", "dup_paragraph_char_share", "dup_line_share", "dup_line_char_share"),
        *(f"top_{n}gram_char_share" for n in _TOP),
        *(f"dup_{n}gram_char_share" for n in _DUP),
    )
    max_dup_paragraph_share: float = Field(default=0.30, ge=0, le=1)
    """Largest share of paragraphs that stood before."""
    max_dup_paragraph_char_share: float = Field(default=0.20, ge=0, le=1)
    """Largest share of characters in such paragraphs."""
    max_dup_line_share: float = Field(default=0.30, ge=0, le=1)
    """Largest share of lines that stood before."""
    max_dup_line_char_share: float = Field(default=0.20, ge=0, le=1)
    """Largest share of characters in such lines."""
    max_top_gram_char_shares: tuple[float, float, float] = (0.20, 0.18, 0.16)
    """Largest share of characters under the most frequent 2-, 3- and 4-gram."""
    max_dup_gram_char_shares: tuple[float, float, float, float, float, float] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Largest share of characters in repeated 5- to 10-grams."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: gopher_dup_lines, gopher_top_2gram and the like; the first rule that fails. DataError without the columns."""
        rules: list[tuple[str, str, str, float]] = [
            ("gopher_dup_paragraphs", "dup_paragraph_share", ">", self.max_dup_paragraph_share),
            ("gopher_dup_paragraph_chars", "dup_paragraph_char_share", ">", self.max_dup_paragraph_char_share),
            ("gopher_dup_lines", "dup_line_share", ">", self.max_dup_line_share),
            ("gopher_dup_line_chars", "dup_line_char_share", ">", self.max_dup_line_char_share),
        ]
        for n, most in zip(_TOP, self.max_top_gram_char_shares, strict=True):
            rules.append((f"gopher_top_{n}gram", f"top_{n}gram_char_share", ">", most))
        for n, most in zip(_DUP, self.max_dup_gram_char_shares, strict=True):
            rules.append((f"gopher_dup_{n}gram", f"dup_{n}gram_char_share", ">", most))
        return first_reasons(table, rules)
