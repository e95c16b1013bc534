"""What the graded instances of a stage say: intervals, comparisons, flips, slices, cost. All of it goes into report.json."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

from raylm.evaluate import comparison
from raylm.evaluate.comparison import Compared, Flip, Slice, Tasks
from raylm.evaluate.instances import Graded
from raylm.evaluate.intervals import CONFIDENCE, Interval
from raylm.evaluate.resolution import Resolution, resolution
from raylm.evaluate.summaries import has, interval_of, quotients


class Cost(NamedTuple):
    """What the answers of one model in one task took."""

    model: str
    task: str
    count: int
    tokens: int
    seconds: float
    """Of all instances together; what ran side by side counts for each."""
    p50_s: float
    p95_s: float


class Findings(NamedTuple):
    """All of it."""

    intervals: dict[str, dict[str, Interval]]
    """Model -> metric -> interval."""
    compared: list[Compared]
    flips: dict[tuple[str, str, str, str], list[Flip]]
    """(task, metric, first, second) -> instances; of models that follow each other, and of the last one and an earlier report."""
    slices: list[Slice]
    num_slices: int
    """Slices that were looked at."""
    costs: list[Cost]
    resolutions: list[Resolution]

    def plain(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "confidence": CONFIDENCE,
            "intervals": {
                model: {name: [_number(end) for end in interval] for name, interval in found.items()}
                for model, found in self.intervals.items()
            },
            "comparisons": comparison.plain(self.compared),
            "flips": [
                {"task": task, "metric": metric, "first": first, "second": second, "instances": comparison.plain(found)}
                for (task, metric, first, second), found in self.flips.items()
            ],
            "slices": {"looked_at": self.num_slices, "worst": comparison.plain(self.slices)},
            "costs": comparison.plain(self.costs),
            "smallest_differences": comparison.plain(self.resolutions),
        }


def find(models: dict[str, Tasks], cards: dict[str, Any], earlier: dict[str, str] | None = None) -> Findings:
    """Look at all instances.

    Args:
        models: in the order of the road; those of an earlier report among them.
        cards: task -> its card.
        earlier: model of an earlier report, as `models` calls it -> the model here that it is compared with.
    """
    earlier = earlier or {}
    here = {name: tasks for name, tasks in models.items() if name not in earlier}
    names = list(here)
    pairs = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]] + list(earlier.items())
    plain = {task: quotients(card, [tasks.get(task, []) for tasks in models.values()]) for task, card in cards.items()}
    compared = comparison.compare(models, plain, pairs)
    flipped = {}
    for first, second in [*pairwise(names), *earlier.items()]:
        for task, metrics in plain.items():
            for metric, direction in metrics.items():
                found = comparison.flips(models[first].get(task, []), models[second].get(task, []), metric, direction)
                if found:
                    flipped[task, metric, first, second] = found
    worst, looked = comparison.slices(here, plain)
    # what is not independent finds no more than one instance of it
    counts = {
        task: max((len({comparison.cluster_of(one) for one in tasks.get(task, [])}) for tasks in models.values()), default=0)
        for task in cards
    }
    return Findings(
        {model: _intervals(tasks, cards) for model, tasks in models.items()},
        compared,
        flipped,
        worst,
        looked,
        [_cost(model, task, graded) for model, tasks in here.items() for task, graded in tasks.items()],
        [resolution(task, card, metric, counts[task]) for task, card in cards.items() if counts[task] for metric in card.better],
    )


def _intervals(tasks: Tasks, cards: dict[str, Any]) -> dict[str, Interval]:
    return {
        metric: interval_of(cards[task], metric, graded)
        for task, graded in tasks.items()
        if task in cards
        for metric in cards[task].better
        # an earlier report may have asked for others
        if has(cards[task], metric, graded)
    }


def _cost(model: str, task: str, graded: list[Graded]) -> Cost:
    import numpy as np

    seconds = [one.seconds for one in graded]
    middle, late = np.quantile(seconds, [0.5, 0.95])
    tokens = sum(one.tokens for one in graded)
    return Cost(model, task, len(graded), tokens, round(math.fsum(seconds), 3), round(float(middle), 4), round(float(late), 4))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
