"""Takes documents, leaves those that do not say the same lines over and over."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.filters.verdicts import Verdicts, verdicts

if TYPE_CHECKING:
    import pyarrow as pa

_LINES = re.compile(r"\n+")


class Repetition(Config):
    """Gopher's line repetition rules (Rae et al. 2021, table A1, https://arxiv.org/abs/2112.11446).

    A line counts as a duplicate from its second occurrence on; characters are a share of the whole text's.
    """

    kind: Literal["repetition"] = "repetition"
    max_line_share: float = Field(default=0.30, ge=0, le=1)
    """Largest share of lines that may be duplicates."""
    max_char_share: float = Field(default=0.20, ge=0, le=1)
    """Largest share of characters that may stand in duplicate lines."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: duplicate_lines, duplicate_line_chars."""
        return verdicts([self._reason(text) for text in table["text"].to_pylist()])

    def _reason(self, text: str) -> str:
        lines = _LINES.split(text.strip())
        seen: set[str] = set()
        count = chars = 0
        for line in lines:
            if line in seen:
                count += 1
                chars += len(line)
            seen.add(line)
        if count / len(lines) > self.max_line_share:
            return "duplicate_lines"
        return "duplicate_line_chars" if chars > self.max_char_share * len(text) else ""
