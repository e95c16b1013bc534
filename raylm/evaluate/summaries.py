"""Metrics that a task makes of its instances by `summary` and that are no quotient of sums: their intervals, by drawing again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from raylm.evaluate.comparison import Column, cluster_of, difference
from raylm.evaluate.instances import Graded, means, summary_of
from raylm.evaluate.intervals import CONFIDENCE, Interval

DRAWS = 200
"""Resamples: a task's own `summary` is slow."""
_SAME = 1e-9


def quotients(card: Any, sides: Sequence[list[Graded]]) -> dict[str, str]:
    """Metrics of a task that are sums of values over sums of weights, with their direction; a task's own summary may be other."""
    if not hasattr(card, "summary"):
        return dict(card.better)
    alike = dict(card.better)
    for graded in filter(None, sides):
        plain, own = means(graded), _summary(card, graded)
        if not own:
            continue
        alike = {name: way for name, way in alike.items() if abs(plain.get(name, math.inf) - own.get(name, math.nan)) <= _SAME}
    return alike


def has(card: Any, metric: str, graded: list[Graded]) -> bool:
    """Whether instances have a metric: those of an earlier report may come of a task that had others."""
    return metric in _summary(card, graded)


def interval_of(card: Any, metric: str, graded: list[Graded], confidence: float = CONFIDENCE) -> Interval:
    """Interval of any metric of a task."""
    if metric in quotients(card, [graded]):
        return Column.of(graded, metric).interval(confidence)
    return _drawn(card.summary, metric, [graded], confidence)


def difference_of(
    card: Any, metric: str, first: list[Graded], second: list[Graded], confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of the second model's metric minus the first one's on the instances that both have; None where there are none."""
    if metric in quotients(card, [first, second]):
        made = difference(first, second, metric, card.better[metric], confidence)
        return None if made is None else Interval(made.low, made.high)
    ids = {one.id for one in first} & {one.id for one in second}
    sides = [[one for one in side if one.id in ids] for side in (first, second)]
    return _drawn(card.summary, metric, sides, confidence) if ids else None


def _summary(card: Any, graded: list[Graded]) -> dict[str, float]:
    """A task's metrics of its instances; {} of those that have not what it makes them of."""
    try:
        return summary_of(card)(graded)
    except KeyError:
        return {}


def _drawn(summary: Any, metric: str, sides: Sequence[list[Graded]], confidence: float) -> Interval:
    """Percentiles of the summary of one side, or of the second one's minus the first one's, over drawn clusters."""
    import numpy as np

    groups = [dict[str, list[Graded]]() for _ in sides]
    names = dict[str, str]()
    for one in sides[0]:
        names[one.id] = cluster_of(one)
    for side, group in zip(sides, groups, strict=True):
        for one in side:
            group.setdefault(names[one.id], []).append(one)
    clusters = list(groups[0])
    if len(clusters) < 2:
        return Interval(-math.inf, math.inf)
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        picked = [clusters[at] for at in rng.integers(0, len(clusters), len(clusters))]
        values = [summary([one for name in picked for one in group[name]]).get(metric, math.nan) for group in groups]
        found.append(values[-1] - values[0] if len(values) > 1 else values[0])
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    if len(sides) == 1 and min(found) == max(found):
        # instances that all came to the same say nothing of how far others may be from it
        return Interval(-math.inf, math.inf)
    return Interval(float(low), float(high))
