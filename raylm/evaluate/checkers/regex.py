"""The `regex` checker: the answer matches a regular expression, or what the expression takes out of it is the ground truth."""

from __future__ import annotations

from typing import Literal

from raylm.data.answers import same
from raylm.data.patterns import Endless, Pattern, has_group, last_match
from raylm.evaluate.checkers.checker import Checked, Checker
from raylm.evaluate.items import Item


class Regex(Checker):
    """Without a group the expression must be found in the answer; with one, the last match's first group must be the ground
    truth."""

    kind: Literal["regex"] = "regex"
    pattern: Pattern
    """Regular expression; `(?s)`, `(?i)` and the like stand in it. An answer with which it comes to no end within
    5 s is wrong."""

    def unchecked(self, item: Item) -> str:
        return super().unchecked(item) if has_group(self.pattern) else ""

    def check(self, text: str, item: Item) -> Checked:
        try:
            found = last_match(self.pattern, text)
        except Endless as cause:
            return Checked(0.0, cause.what)
        if found is None:
            return Checked(0.0, "no match")
        if not has_group(self.pattern):
            return Checked(1.0, "matches")
        right = same((found[1] or "").strip(), item.ground_truth or "")
        return Checked(float(right), "right" if right else f"says {found[1]!r}")

    def said(self, text: str) -> str:
        try:
            found = last_match(self.pattern, text)
        except Endless:
            return ""
        if found is None:
            return ""
        return (found[1] or "").strip().casefold() if has_group(self.pattern) else "matches"
