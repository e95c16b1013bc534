"""The parts of a reward, put together."""

from __future__ import annotations

from collections.abc import Sequence

from raylm.rl.rewards.measure import finite
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored

ENVIRONMENT = "environment"
"""What an environment's own reward is reported as."""


def rollout_of(
    prompt: Prompt, drawn: Trajectory, names: Sequence[str], weights: Sequence[float], found: Sequence[Score | Unscored]
) -> Rollout:
    """A rollout whose score is the weighed sum of what the rewards found, and of the environment's own reward; without a score
    where one of them has none.

    Args:
        names, weights, found: of each reward.
    """
    parts = {name: one for name, one in zip(names, found, strict=True) if isinstance(one, Score)}
    own = None if drawn.reward is None else finite(float(drawn.reward), "the environment's")
    missing = [one for one in (own, *found) if isinstance(one, Unscored)]
    if isinstance(own, Score):
        parts[ENVIRONMENT] = own
    if missing:
        return Rollout(prompt, drawn, None, missing[0], parts or None)
    if not parts:
        # an algorithm that needs no reward learns from all
        return Rollout(prompt, drawn, Score(0.0, "no reward was asked"))
    weighed = dict(zip(names, weights, strict=True))
    total = finite(
        sum(weighed.get(name, 1.0) * part.value for name, part in parts.items()),
        "; ".join(part.reason for part in parts.values() if part.reason),
    )
    either = (total, None) if isinstance(total, Score) else (None, total)
    return Rollout(prompt, drawn, *either, parts=parts)
