"""The `c4_lines` cleaner: keeps the lines of a text that pass C4's line rules."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.clean.cleaned import Cleaned

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4Lines(Config):
    """C4's rules about lines (Raffel et al. 2020, https://arxiv.org/abs/1910.10683), in datatrove's order.

    Lines end at any line break and are stripped. "lorem ipsum" and "{" condemn a whole document: that is `c4_quality`.
    """

    kind: Literal["c4_lines"] = "c4_lines"
    terminal_punctuation: bool = True
    """Cuts lines that do not end with . ? ! " or ', or end with "..."; FineWeb sets false."""
    citations: bool = True
    """Cuts [1], [edit] and [citation needed] out of lines."""
    max_word_chars: int = Field(default=1000, gt=0)
    """Cuts lines with a longer word."""
    min_words: int = Field(default=3, ge=0)
    """Cuts lines with fewer words."""
    javascript: bool = True
    """Cuts lines with "javascript" in any case."""
    policies: bool = True
    """Cuts lines about terms of use, privacy and cookies."""

    def clean(self, texts: list[str]) -> Cleaned:
        """Counts: c4_long_word, c4_no_end, c4_few_words, c4_javascript, c4_policy (lines), c4_citations (cut out)."""
        counts: Counter[str] = Counter()
        return Cleaned(["\n".join(self._kept(text, counts)).strip() for text in texts], dict(sorted(counts.items())))

    def _kept(self, text: str, counts: Counter[str]) -> list[str]:
        kept = []
        for line in map(str.strip, text.splitlines()):
            if not line:
                continue
            reason, line = self._reason(line, counts)
            if reason:
                counts[reason] += 1
            else:
                kept.append(line)
        return kept

    def _reason(self, line: str, counts: Counter[str]) -> tuple[str, str]:
        """Why a line is dropped ("" when it is kept), and the line without citations."""
        words, lower = line.split(), line.lower()
        if len(line) > self.max_word_chars and any(len(word) > self.max_word_chars for word in words):
            return "c4_long_word", line
        if self.citations and "[" in line:
            line, cut = _CITATION.subn("", line)
            counts["c4_citations"] += cut
        if self.terminal_punctuation and (not line.endswith(_ENDS) or line.endswith("...")):
            return "c4_no_end", line
        if len(words) < self.min_words:
            return "c4_few_words", line
        if self.javascript and "javascript" in lower:
            return "c4_javascript", line
        if self.policies and any(phrase in lower for phrase in _POLICIES):
            return "c4_policy", line
        return "", line
