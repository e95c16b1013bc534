"""The gate: measured values against limits, and the reasons why a model must not be served.

A plain number is compared with the measured value. A table is decided by the interval: a model passes where all of it lies on the
right side of the limit, so that luck with few rows opens no gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.evaluate.instances import Graded


class Bound(Config):
    """One limit, held by the interval of that confidence; one of the four."""

    at_least: float | None = None
    """The interval of the metric begins at this or above; for metrics of which more is better."""
    at_most: float | None = None
    """The interval of the metric ends at this or below; for metrics of which less is better."""
    not_below: str | None = None
    """A model of `models` to which the judged one loses at most `by`, as the interval of their difference on the same instances
    says; for metrics of which more is better."""
    not_above: str | None = None
    """The same for metrics of which less is better."""
    by: float = Field(default=0.0, ge=0)
    """Loss against that model that is accepted, in the metric's own unit."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Of the interval, which has two sides."""

    @model_validator(mode="after")
    def _one(self) -> Bound:
        given = [name for name in ("at_least", "at_most", "not_below", "not_above") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a limit is one of at_least, at_most, not_below and not_above, not {' and '.join(given) or 'none'}")
        if self.by and given[0] in ("at_least", "at_most"):
            raise ValueError(f"`by` belongs to not_below and not_above; put it into {given[0]}")
        return self

    @property
    def direction(self) -> str:
        """Of the metrics that it fits: `high` or `low` is better."""
        return "high" if self.at_least is not None or self.not_below is not None else "low"

    @property
    def limit(self) -> float | None:
        return self.at_least if self.at_least is not None else self.at_most

    @property
    def other(self) -> str | None:
        """The model that it is compared with."""
        return self.not_below or self.not_above


def _shape(value: Any) -> str:
    return "bound" if isinstance(value, (dict, Bound)) else "limit"


Limit = Annotated[Annotated[float, Tag("limit")] | Annotated[Bound, Tag("bound")], Discriminator(_shape)]


def failures(
    measured: Mapping[str, float],
    gate: Mapping[str, float | Bound],
    better: Mapping[str, str],
    model: str = "",
    graded: Mapping[str, Mapping[str, list[Graded]]] | None = None,
    cards: Mapping[str, Any] | None = None,
) -> list[str]:
    """One sentence per metric that is worse than its limit; [] lets the model pass.

    Args:
        better: metric -> `low` or `high`.
        model: the one that is judged.
        graded: model -> metric -> instances, for limits that an interval decides.
        cards: metric -> the task that measures it.
    """
    found = []
    for name, limit in gate.items():
        if name not in measured:
            found.append(f"{name} was not measured")
            continue
        value, low = measured[name], better.get(name, "high") == "low"
        if isinstance(limit, Bound):
            if why := _by_interval(name, limit, model, graded or {}, (cards or {})[name]):
                found.append(why)
        elif not (value <= limit if low else value >= limit):
            found.append(f"{name} is {value:.4g}, {'at most' if low else 'at least'} {limit:g} is asked")
    return found


def said(name: str, limit: float | Bound) -> str:
    """A limit in words, for a gate that is passed."""
    if not isinstance(limit, Bound):
        return f"{name} {limit:g}"
    sure = f"{limit.confidence:.0%} sure"
    if limit.other is not None:
        return f"{name} at most {limit.by:g} worse than {limit.other} ({sure})"
    return f"{name} {'at least' if limit.at_least is not None else 'at most'} {limit.limit:g} ({sure})"


def never(name: str, limit: Bound, count: int, share: bool) -> str:
    """Why a limit cannot be passed with so many instances, however good the model is; "" where it can.

    Args:
        share: the metric is a share of right answers.
    """
    from raylm.evaluate import intervals

    if not share:
        return "" if count >= 2 else f"an interval of {name} needs two instances at least"
    if limit.limit is not None:
        high = limit.direction == "high"
        asked = f"{'at least' if high else 'at most'} {limit.limit:g}"
        ends = intervals.wilson(count if high else 0, count, limit.confidence)
        if ends.low < limit.limit if high else ends.high > limit.limit:
            return (
                f"{name} {asked} with {limit.confidence:.0%} confidence cannot be shown with {count} instances: even if "
                f"{'all count' if high else 'none counts'}, the interval "
                f"{f'begins at {ends.low:.3f}' if high else f'ends at {ends.high:.3f}'}"
            )
    return ""


def unlikely(name: str, limit: Bound, count: int) -> str:
    """A warning where a model as good as the other one would seldom pass; "" where it would pass."""
    from raylm.evaluate import intervals

    if limit.other is None:
        return ""
    seen = round(intervals.DISCORDANCE * count / 2)
    reach = -intervals.paired_share(seen, seen, count, limit.confidence).low
    if limit.by >= reach:
        return ""
    return (
        f"gate {name}: with {count} instances a model exactly as good as {limit.other} does not pass by = {limit.by:g}: the "
        f"interval of their difference reaches {reach:.3f} below 0 where {intervals.DISCORDANCE:.0%} of the answers differ; "
        "take more rows, or a larger `by`"
    )


def _by_interval(name: str, limit: Bound, model: str, graded: Mapping[str, Mapping[str, list[Graded]]], card: Any) -> str:
    from raylm.evaluate.summaries import difference_of, interval_of

    own, high = graded.get(model, {}).get(name, []), limit.direction == "high"
    if card.better[name] != limit.direction:
        return f"{name} is a metric of which {card.better[name]} is better: the limit is of the other kind"
    if not own:
        return f"{name} has no instances that an interval could be of"
    if limit.other is None:
        low, up = interval_of(card, name, own, limit.confidence)
        bound = limit.limit or 0.0
        if low >= bound if high else up <= bound:
            return ""
        if low == -math.inf and up == math.inf:
            return f"{name} came to the same on all instances, or has one alone: nothing says how far it may vary"
        asked = f"{'at least' if high else 'at most'} {bound:g}"
        return f"{name} lies between {low:.4g} and {up:.4g} with {limit.confidence:.0%} confidence, {asked} is asked"
    made = difference_of(card, name, graded.get(limit.other, {}).get(name, []), own, limit.confidence)
    if made is None:
        return f"{name} was measured of {limit.other} on no instance that {model} was asked too"
    if made.low >= -limit.by if high else made.high <= limit.by:
        return ""
    if made.low == -math.inf and made.high == math.inf:
        same = f"{name} differs from {limit.other}'s by the same on all instances, or there is one alone"
        return f"{same}: nothing says how far that may vary"
    return (
        f"{name} differs from {limit.other}'s by {made.low:+.4g} to {made.high:+.4g} with {limit.confidence:.0%} confidence, "
        f"at most {limit.by:g} {'below' if high else 'above'} it is asked"
    )
