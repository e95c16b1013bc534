"""What a number of instances can show, told before the run: the smallest difference that is found, limits that cannot be held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.config import card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.evaluate.config import Evaluate
from raylm.evaluate.gate import Bound, never, unlikely
from raylm.evaluate.intervals import CONFIDENCE, DISCORDANCE, POWER, detectable, detectable_deviations


class Resolution(NamedTuple):
    """What a task can tell apart."""

    task: str
    metric: str
    count: int
    """Instances; after a run those of one cluster count once."""
    share: bool
    smallest: float
    """Difference of shares, or a number of standard deviations of the difference on one instance."""

    def told(self) -> str:
        """One sentence."""
        with_ = f"{self.task}: {self.count} instances find differences in {self.metric} of"
        sure = f"{POWER:.0%} of the time, at {CONFIDENCE:.0%} confidence"
        if not self.share:
            return f"{with_} {self.smallest:.2f} standard deviations (of one instance's difference) or more, {sure}"
        if self.smallest >= 1:
            return (
                f"{self.task}: {self.count} instances are too few to tell models apart that differ on {DISCORDANCE:.0%} of them"
            )
        return f"{with_} {100 * self.smallest:.1f} points or more, {sure} (if {DISCORDANCE:.0%} of the answers differ)"


def resolution(task: str, card: Any, metric: str, count: int) -> Resolution:
    """For `count` instances of a task."""
    share = metric in getattr(card, "shares", ())
    return Resolution(task, metric, count, share, detectable(count) if share else detectable_deviations(count))


def before_the_run(cfg: Evaluate, held_out: Callable[[str], int | None]) -> list[str]:
    """Lines on what the tasks of a stage will be able to show, where several models are compared or a gate asks for an interval.

    Args:
        held_out: number of held-out rows that a reference names, None where that is not known yet.

    Raises:
        ConfigError: a limit of the gate cannot be passed with these rows, however good the model is.
    """
    lines: list[str] = []
    for card in map(resolve, cfg.tasks):
        count = count_of(card, held_out)
        if not count:
            continue
        for metric in card.better:
            found = resolution(card_kind(card), card, metric, count)
            lines += [found.told()] if len(cfg.models) > 1 or cfg.against else []
            limit = cfg.gate.get(metric)
            if isinstance(limit, Bound) and limit.direction != card.better[metric]:
                fit = "at_least or not_below" if card.better[metric] == "high" else "at_most or not_above"
                raise ConfigError(f"of this metric {card.better[metric]} is better", where=f"gate.{metric}", next=f"say {fit}")
            if isinstance(limit, Bound):
                if why := never(metric, limit, count, found.share):
                    raise ConfigError(
                        why, where=f"gate.{metric}", next="take more held-out rows (`held_out` of the tokenize stage)"
                    )
                lines += [unlikely(metric, limit, count)] if found.share else []
    return [line for line in lines if line]


def count_of(card: Any, held_out: Callable[[str], int | None]) -> int | None:
    """Independent instances of a task as far as they are known: its `num_rows`, or as many rows as there are; of one that brings
    its own cases, how many topics these have (`num_clusters`): all cases of a topic show no more than one of them."""
    if (own := getattr(card, "num_clusters", 0)) and not isinstance(getattr(card, "rows", None), str):
        return own
    most = getattr(card, "num_rows", None)
    rows = getattr(card, "rows", None)
    there = held_out(rows) if isinstance(rows, str) else None
    return min(most, there) if most and there else most or there
