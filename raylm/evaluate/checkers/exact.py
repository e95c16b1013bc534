"""The `exact` checker: the answer is the ground truth."""

from __future__ import annotations

from typing import Literal

from raylm.data.answers import final, same, says
from raylm.data.numbers import number
from raylm.evaluate.checkers.checker import Checked, Checker
from raylm.evaluate.items import Item


class Exact(Checker):
    r"""The answer, or what it marks by `\boxed{...}` or `####`, is the ground truth: the same words in whatever case, or a number
    of the same value."""

    kind: Literal["exact"] = "exact"
    whole: bool = True
    """The whole answer; false: the ground truth stands somewhere in it, as a whole word or number."""

    def check(self, text: str, item: Item) -> Checked:
        truth = item.ground_truth or ""
        if self.whole:
            # a sentence may end with a full stop
            right = same(final(text).strip().removesuffix("."), final(truth).strip().removesuffix("."))
        else:
            right = says(text, truth)
        return Checked(float(right), "right" if right else "another answer")

    def said(self, text: str) -> str:
        words = super().said(text).removesuffix(".")
        found = number(words)
        return words if found is None else f"{found.value}{'%' * found.percent}"
