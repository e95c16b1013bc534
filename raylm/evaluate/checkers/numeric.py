"""The `numeric` checker: the answer is mathematically the ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from raylm.data.answers import final
from raylm.data.mathematics import Comparer, installed
from raylm.data.numbers import numbers
from raylm.evaluate.checkers.checker import Check, Checked, Checker


class Numeric(Checker):
    r"""Plain numbers are compared exactly, everything else by math-verify: the last `\boxed{...}` of an answer counts, or what
    follows `####`, or else (unless `boxed`) its last expression."""

    kind: Literal["numeric"] = "numeric"
    boxed: bool = False
    r"""Only what stands in `\boxed{...}` or after `####` is an answer."""
    deadline_s: float = 10.0
    """Seconds for one comparison; one that takes longer is ended, and the answer is wrong."""

    def missing(self) -> str:
        """math-verify, where it is not installed."""
        return "" if installed() else "the package math-verify (pip install math-verify)"

    @contextmanager
    def checking(self) -> Iterator[Check]:
        """Comparisons in a process of their own: what a model writes may take for ever to simplify."""
        with Comparer(self.deadline_s) as compare:
            yield lambda text, item: _checked(*compare(text, item.ground_truth or "", self.boxed))

    def said(self, text: str) -> str:
        found = numbers(final(text))
        return f"{found[-1].value}{'%' * found[-1].percent}" if found else super().said(text)


def _checked(right: bool | None, why: str) -> Checked:
    # a ground truth that cannot be read is nobody's mistake: it is left out
    return Checked(float("nan") if right is None else float(right), why)
