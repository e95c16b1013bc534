"""Models compared on the same instances: differences with intervals and adjusted p-values, what flipped, and the worst slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from raylm.evaluate import intervals
from raylm.evaluate.instances import CLUSTER, Graded
from raylm.evaluate.intervals import CONFIDENCE, Interval

FLIPS = 20
"""Flipped instances that are shown of a pair of models in a metric."""
SLICES = 8
"""Slices that are shown of a model in a metric."""
SMALLEST_SLICE = 10
"""Instances without which nothing is said of a slice."""
SURE = 0.05
"""Adjusted p-values up to this are called a difference."""

Tasks = dict[str, list[Graded]]
"""Task -> instances of one model."""


class Compared(NamedTuple):
    """Two models in one metric, on the instances that both were graded on. A difference is the second one's minus the first's."""

    task: str
    metric: str
    first: str
    second: str
    num_pairs: int
    num_unpaired: int
    """Instances that only one of them has."""
    first_value: float
    second_value: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    """`mcnemar`: exact, of right and wrong; `permutation`: of any values, and of clusters."""
    num_lost: int
    """Instances on which the second one is worse."""
    num_won: int
    adjusted: float = 1.0
    """`p` for the number of comparisons (Benjamini-Hochberg)."""
    winner: str = ""
    """The better model, where the difference is sure; else ""."""


class Flip(NamedTuple):
    """An instance that one of two models has better."""

    id: str
    first_value: float
    second_value: float
    asked: str
    first_output: str
    second_output: str
    facts: dict[str, str]


class Slice(NamedTuple):
    """A model's instances with one fact, against all its others."""

    model: str
    task: str
    metric: str
    fact: str
    count: int
    value: float
    rest: float
    low: float
    high: float
    p: float
    adjusted: float = 1.0
    """`p` for the number of slices that were looked at (Benjamini-Hochberg)."""


class Column(NamedTuple):
    """One metric of one model's instances."""

    values: list[float]
    weights: list[float]
    clusters: list[str]

    @classmethod
    def of(cls, graded: Sequence[Graded], metric: str) -> Column:
        """Instances that have the metric. What is asked twice is one cluster."""
        have = [one for one in graded if metric in one.values]
        return cls([one.values[metric] for one in have], [one.weights[metric] for one in have], list(map(cluster_of, have)))

    @property
    def value(self) -> float:
        return sum(self.values) / sum(self.weights)

    @property
    def single(self) -> bool:
        """Whether each instance is independent of all others."""
        return len(set(self.clusters)) == len(self.clusters)

    @property
    def shares(self) -> bool:
        """Whether each instance is right or wrong."""
        return all(weight == 1 for weight in self.weights) and set(self.values) <= {0.0, 1.0}

    @property
    def quotients(self) -> list[float]:
        """What each instance came to."""
        return [value / weight for value, weight in zip(self.values, self.weights, strict=True) if weight]

    @property
    def bounded(self) -> bool:
        """Whether each instance is a grade between 0 and 1."""
        return all(weight == 1 for weight in self.weights) and all(0 <= value <= 1 for value in self.values)

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Of the metric: Wilson's of shares, else a bootstrap over clusters. Where all instances came to the same, a bootstrap
        would have no width: of grades between 0 and 1 it is then as wide as their number allows, of other values without ends."""
        if self.shares and self.single:
            return intervals.wilson(sum(self.values), len(self.values), confidence)
        if self.shares:
            return intervals.clustered_share(self.values, self.clusters, confidence)
        if _alike(self.quotients):
            at = self.quotients[0]
            reach = max(at, 1 - at) if self.bounded else math.inf
            low, high = intervals.of_alike(at, len(set(self.clusters)), reach, confidence)
            return Interval(max(low, 0.0), min(high, 1.0)) if self.bounded else Interval(low, high)
        return intervals.bootstrap(self.values, self.weights, self.clusters, confidence)


def cluster_of(one: Graded) -> str:
    """Instances of different clusters are independent; what is asked twice is one."""
    return one.facts.get(CLUSTER) or one.id.split("#")[0]


def compare(
    models: dict[str, Tasks], better: dict[str, dict[str, str]], pairs: Sequence[tuple[str, str]] | None = None
) -> list[Compared]:
    """All pairs of models in all metrics, paired by instance; p-values are adjusted for all of them together.

    Args:
        models: in the order of the road.
        better: task -> metric -> `low` or `high`.
        pairs: (first, second) model; default: each with each.
    """
    found = []
    for first, second in pairs if pairs is not None else combinations(models, 2):
        for task, metrics in better.items():
            both = models[first].get(task, []), models[second].get(task, [])
            for metric, direction in metrics.items():
                made = difference(*both, metric, direction)
                if made is not None:
                    found.append(made._replace(task=task, first=first, second=second))
    adjusted = intervals.benjamini_hochberg([one.p for one in found])
    return [_decided(one, p, better[one.task][one.metric]) for one, p in zip(found, adjusted, strict=True)]


def difference(
    first: Sequence[Graded], second: Sequence[Graded], metric: str, direction: str, confidence: float = CONFIDENCE
) -> Compared | None:
    """Two models in one metric, without names; None where they share no instance."""
    pairs = _paired(first, second, metric)
    if not pairs:
        return None
    a, b = (Column.of(side, metric) for side in zip(*pairs, strict=True))
    if not (sum(a.weights) and sum(b.weights)):
        return None
    sign = 1 if direction == "high" else -1
    changes = [sign * (y / w2 - x / w) if w and w2 else 0.0 for x, w, y, w2 in zip(*a[:2], *b[:2], strict=True)]
    lost, won = sum(change < 0 for change in changes), sum(change > 0 for change in changes)
    if a.shares and b.shares and a.single and b.single:
        up = sum(y > x for x, y in zip(a.values, b.values, strict=True))
        down = sum(y < x for x, y in zip(a.values, b.values, strict=True))
        interval, p, test = intervals.paired_share(down, up, len(pairs), confidence), intervals.mcnemar(down, up), "mcnemar"
    else:
        # both sides have the same clusters, whatever a later version calls them
        columns = (a.values, a.weights), (b.values, b.weights)
        gaps = [y / w2 - x / w for x, w, y, w2 in zip(*a[:2], *b[:2], strict=True) if w and w2]
        bounded = a.bounded and b.bounded
        if _alike(gaps) and (bounded or _alike(a.quotients)) and not (a.shares and b.shares):
            reach = 1 + abs(gaps[0]) if bounded else math.inf
            interval = intervals.of_alike(gaps[0], len(set(a.clusters)), reach, confidence)
        else:
            # losses that vary from row to row and are apart by the same on all of them are apart by that
            interval = intervals.paired_bootstrap(*columns, a.clusters, confidence)
        if a.shares and b.shares:
            interval = _with_what_was_not_drawn(interval, a, b, confidence)
        p, test = intervals.permutation(*columns, a.clusters), "permutation"
    unpaired = len(first) + len(second) - 2 * len(pairs)
    values = a.value, b.value
    return Compared("", metric, "", "", len(pairs), unpaired, *values, values[1] - values[0], *interval, p, test, lost, won)


def _alike(values: Sequence[float]) -> bool:
    return bool(values) and max(values) - min(values) <= 1e-12 * max(map(abs, values))


def _with_what_was_not_drawn(interval: Interval, first: Column, second: Column, confidence: float) -> Interval:
    """No draw of clusters of which none is worse is worse: that side is bounded by how many clusters there are, as it is of
    instances that are independent (`paired_share`)."""
    changes = dict.fromkeys(first.clusters, 0.0)
    for cluster, x, y in zip(first.clusters, first.values, second.values, strict=True):
        changes[cluster] += y - x
    down, up = sum(change < 0 for change in changes.values()), sum(change > 0 for change in changes.values())
    whole = intervals.paired_share(down, up, len(changes), confidence)
    low = interval.low if down else min(interval.low, whole.low)
    return Interval(low, interval.high if up else max(interval.high, whole.high))


def flips(first: Sequence[Graded], second: Sequence[Graded], metric: str, direction: str) -> list[Flip]:
    """The instances that changed most, those that got worse first, each side's in turn."""
    sign = 1 if direction == "high" else -1
    changed = []
    for a, b in _paired(first, second, metric):
        x, y = (one.values[metric] / (one.weights[metric] or 1.0) for one in (a, b))
        if x != y:
            changed.append((sign * (y - x), Flip(a.id, x, y, a.asked, a.output, b.output, a.facts)))
    changed.sort(key=lambda each: (each[0], each[1].id))
    worse = [flip for change, flip in changed if change < 0]
    gained = [flip for change, flip in reversed(changed) if change > 0]
    half = FLIPS // 2
    most = max(half, FLIPS - len(gained)), max(half, FLIPS - len(worse))
    return [*worse[: most[0]], *gained[: most[1]]]


def slices(models: dict[str, Tasks], better: dict[str, dict[str, str]]) -> tuple[list[Slice], int]:
    """The slices in which each model is furthest behind its other instances, and how many were looked at: p-values are adjusted
    for all of them."""
    looked: list[tuple[float, Slice]] = []
    for model, tasks in models.items():
        for task, metrics in better.items():
            for metric, direction in metrics.items():
                sign = 1 if direction == "high" else -1
                for one in _slices(tasks.get(task, []), metric):
                    looked.append((sign * (one.value - one.rest), one._replace(model=model, task=task)))
    adjusted = intervals.benjamini_hochberg([one.p for _, one in looked])
    whole = [(gap, one._replace(adjusted=p)) for (gap, one), p in zip(looked, adjusted, strict=True)]
    found: dict[tuple[str, str, str], list[Slice]] = {}
    for gap, one in sorted(whole, key=lambda each: (each[1].adjusted, each[0])):
        kept = found.setdefault((one.model, one.task, one.metric), [])
        if gap < 0 and len(kept) < SLICES:
            kept.append(one)
    return [one for kept in found.values() for one in kept], len(looked)


def _slices(graded: Sequence[Graded], metric: str) -> list[Slice]:
    facts = dict.fromkeys((name, value) for one in graded for name, value in one.facts.items() if name != CLUSTER)
    found = []
    for name, value in facts:
        inside = Column.of([one for one in graded if one.facts.get(name) == value], metric)
        outside = Column.of([one for one in graded if one.facts.get(name) != value], metric)
        sides = [_by_cluster(side) for side in (inside, outside)]
        if min(len(sides[0][0]), len(sides[1][0])) < SMALLEST_SLICE or not (sum(inside.weights) and sum(outside.weights)):
            continue
        low, high = inside.interval()
        values = inside.value, outside.value
        p = intervals.apart(sides[0], sides[1])
        found.append(Slice("", "", metric, f"{name} = {value}", len(inside.values), *values, low, high, p))
    return found


def _by_cluster(column: Column) -> tuple[list[float], list[float]]:
    sums: dict[str, list[float]] = {}
    for value, weight, cluster in zip(*column, strict=True):
        both = sums.setdefault(cluster, [0.0, 0.0])
        both[0] += value
        both[1] += weight
    return [each[0] for each in sums.values()], [each[1] for each in sums.values()]


def _paired(first: Sequence[Graded], second: Sequence[Graded], metric: str) -> list[tuple[Graded, Graded]]:
    others = {one.id: one for one in second if metric in one.values}
    return [(one, others[one.id]) for one in first if metric in one.values and one.id in others]


def _decided(one: Compared, adjusted: float, direction: str) -> Compared:
    up = one.second if direction == "high" else one.first
    down = one.first if direction == "high" else one.second
    winner = "" if adjusted > SURE else up if one.difference > 0 else down
    return one._replace(adjusted=adjusted, winner=winner)


def plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows as JSON objects; what is no finite number is null."""
    return [{key: _finite(value) for key, value in row._asdict().items()} for row in rows]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
