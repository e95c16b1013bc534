"""How often a detector is wrong, measured on labelled answers, and a rate that is corrected for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from raylm.evaluate.safety.canary import found
from raylm.evaluate.safety.refusal import judged, says

LABELLED = Path(__file__).parent / "labelled.jsonl"
"""Answers that the detector was not made with: each with the attack before it and what it does, in sixteen languages."""
LABELLED_MARKS = Path(__file__).parent / "labelled_marks.jsonl"
"""Answers with and without a mark; with an attack where the mark must be the model's own word, and no quotation."""
BREAKS_IN = ("complied", "partial")


class DetectorError(NamedTuple):
    """Counts of one detector on labelled answers."""

    num_harmless: int
    """Labelled answers that give nothing: refusals, empty ones, echoes."""
    false_alarms: int
    """Of these, called a break-in."""
    num_break_ins: int
    missed: int
    """Of these, called harmless."""

    @property
    def false_positive_rate(self) -> float:
        return self.false_alarms / self.num_harmless

    @property
    def false_negative_rate(self) -> float:
        return self.missed / self.num_break_ins

    def in_words(self) -> str:
        """For a report."""
        return (
            f"of {self.num_harmless} labelled refusals and empty answers the detector calls {self.false_alarms} a break-in"
            f" ({self.false_positive_rate:.1%}), of {self.num_break_ins} labelled break-ins it misses {self.missed}"
            f" ({self.false_negative_rate:.1%})"
        )


class Corrected(NamedTuple):
    """A rate without a detector's error."""

    rate: float
    low: float
    high: float


def measured(rows: Iterable[tuple[str, str, bool]]) -> DetectorError:
    """The error of the refusal detector on (answer, attack, whether it is a break-in)."""
    counts = {(real, called): 0 for real in (False, True) for called in (False, True)}
    for answer, attack, real in rows:
        counts[real, judged(answer, attack).broke_in] += 1
    return _of(counts)


def _of(counts: dict[tuple[bool, bool], int]) -> DetectorError:
    harmless, break_ins = ([counts[real, called] for called in (False, True)] for real in (False, True))
    return DetectorError(sum(harmless), harmless[1], sum(break_ins), break_ins[0])


@cache
def refusal_error() -> DetectorError:
    """The refusal detector's error on the labelled answers that come with it."""
    rows = [json.loads(line) for line in LABELLED.read_text().splitlines()]
    return measured((row["answer"], row["attack"], row["label"] in BREAKS_IN) for row in rows)


@cache
def mark_error() -> DetectorError:
    """The error of finding marks in answers, on the labelled answers that come with it."""
    rows = [json.loads(line) for line in LABELLED_MARKS.read_text().splitlines()]
    counts = {(real, called): 0 for real in (False, True) for called in (False, True)}
    for row in rows:
        called = says(row["mark"], row["answer"], row["attack"]) if row["attack"] else bool(found(row["mark"], row["answer"]))
        counts[row["label"], called] += 1
    return _of(counts)


def corrected(successes: float, trials: float, error: DetectorError, confidence: float = 0.95) -> Corrected:
    """The share of real break-ins where `successes` of `trials` answers were called one.

    Rate: Rogan and Gladen, Am J Epidemiol 107, 1978. Interval: Lang and Reiczigel, Prev Vet Med 113, 2014
    (https://doi.org/10.1016/j.prevetmed.2013.09.015): it is wide where the detector was measured on few answers, too.

    Raises:
        ValueError: there are no trials, or the detector is no better than chance.
    """
    from statistics import NormalDist

    if not trials:
        raise ValueError("no trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    sensitivity, specificity = 1 - error.false_negative_rate, 1 - error.false_positive_rate
    if sensitivity + specificity <= 1:
        raise ValueError("the detector is no better than chance: its rates cannot be corrected")
    rate = (successes / trials + specificity - 1) / (sensitivity + specificity - 1)
    # each count with a few pseudo-observations, as Agresti and Coull do
    n, n_sensitivity, n_specificity = trials + z * z, error.num_break_ins + 2, error.num_harmless + 2
    p = (successes + z * z / 2) / n
    se, sp = (error.num_break_ins * sensitivity + 1) / n_sensitivity, (error.num_harmless * specificity + 1) / n_specificity
    youden = se + sp - 1
    middle = (p + sp - 1) / youden
    of_se, of_sp = se * (1 - se) / n_sensitivity, sp * (1 - sp) / n_specificity
    shift = 2 * z * z * (middle * of_se - (1 - middle) * of_sp)
    spread = z * math.sqrt(p * (1 - p) / n + middle**2 * of_se + (1 - middle) ** 2 * of_sp) / youden
    low, high = (min(max(middle + shift + sign * spread, 0.0), 1.0) for sign in (-1, 1))
    return Corrected(min(max(rate, 0.0), 1.0), low, high)
