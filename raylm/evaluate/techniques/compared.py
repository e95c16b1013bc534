"""Prompting techniques compared, question by question: tasks of a stage that differ in their technique alone."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from raylm.core import page as pages
from raylm.evaluate import intervals
from raylm.evaluate.comparison import SURE, Compared, Tasks, difference
from raylm.evaluate.instances import Graded

_VALUE = "value"


def compare_techniques(cards: dict[str, Any], models: dict[str, Tasks]) -> list[Compared]:
    """Each technique with each other one on the same questions, for each model; p-values are adjusted for all of them together.
    `task` is the model, `first` and `second` are metrics.

    Args:
        cards: task -> its card. Those with the same `asks` put the same questions.
        models: model -> task -> instances.
    """
    found = []
    for model, tasks in models.items():
        for (one, card), (other, second) in combinations(cards.items(), 2):
            asks = getattr(card, "asks", "")
            if not asks or asks != getattr(second, "asks", "") or not (one in tasks and other in tasks):
                continue
            sides = _renamed(tasks[one], card.title), _renamed(tasks[other], second.title)
            made = difference(*sides, _VALUE, "high")
            if made is not None:
                found.append(made._replace(task=model, metric="technique", first=card.title, second=second.title))
    adjusted = intervals.benjamini_hochberg([one.p for one in found])
    return [_decided(one, p) for one, p in zip(found, adjusted, strict=True)]


def lines(found: list[Compared]) -> list[str]:
    """A sentence for each difference that is sure, and how many are."""
    told = [f"{one.task}: {one.second} against {one.first} {_number(one)}" for one in found if one.winner]
    return [*told, f"{len(told)} of {len(found)} differences between techniques are sure"] if found else []


def section(found: list[Compared]) -> tuple[str, str]:
    """A part of the report."""
    rows = [
        [
            one.task,
            one.first,
            one.second,
            one.num_pairs,
            f"{one.first_value:.4f}",
            f"{one.second_value:.4f}",
            _number(one),
            one.winner,
        ]
        for one in found
    ]
    head = ["model", "technique", "against", "questions", "value", "of the other", "difference", "sure winner"]
    return "Techniques", pages.table(head, rows)


def _renamed(graded: list[Graded], metric: str) -> list[Graded]:
    return [
        one._replace(values={_VALUE: one.values[metric]}, weights={_VALUE: one.weights[metric]})
        for one in graded
        if metric in one.values
    ]


def _decided(one: Compared, adjusted: float) -> Compared:
    winner = one.second if one.difference > 0 else one.first
    return one._replace(adjusted=adjusted, winner="" if adjusted > SURE else winner)


def _number(one: Compared) -> str:
    return f"{one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f}, p {one.adjusted:.2g})"
