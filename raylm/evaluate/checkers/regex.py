"""The `regex` checker: the answer matches a regular expression, or what the expression takes out of it is the ground truth."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from raylm.data.answers import same
from raylm.evaluate.checkers.checker import Checked, Checker
from raylm.evaluate.items import Item


class Regex(Checker):
    """Without a group the expression must be found in the answer; with one, the last match's first group must be the ground
    truth."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """Regular expression; `(?s)`, `(?i)` and the like stand in it."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as cause:
            raise ValueError(f"not a regular expression: {cause}") from cause
        return pattern

    @property
    def _takes(self) -> bool:
        return re.compile(self.pattern).groups > 0

    def unchecked(self, item: Item) -> str:
        return super().unchecked(item) if self._takes else ""

    def check(self, text: str, item: Item) -> Checked:
        found = list(re.finditer(self.pattern, text))
        if not found:
            return Checked(0.0, "no match")
        if not self._takes:
            return Checked(1.0, "matches")
        right = same((found[-1][1] or "").strip(), item.ground_truth or "")
        return Checked(float(right), "right" if right else f"says {found[-1][1]!r}")

    def said(self, text: str) -> str:
        found = list(re.finditer(self.pattern, text))
        if not found:
            return ""
        return (found[-1][1] or "").strip().casefold() if self._takes else "matches"
