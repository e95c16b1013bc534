"""The parts of a reward, put together."""

from __future__ import annotations

from collections.abc import Sequence

from raylm.rl.rewards.measure import finite
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored

ENVIRONMENT = "environment"
"""What an environment's own reward is reported as."""


def rollout_of(
    prompt: Prompt,
    drawn: Trajectory,
    names: Sequence[str],
    weights: Sequence[float],
    found: Sequence[Score | Unscored],
    token_rewards: Sequence[tuple[float, Sequence[float]]] = (),
) -> Rollout:
    """A rollout whose score is the weighed sum of what the rewards found, and of the environment's own reward; without a score
    where one of them has none.

    Args:
        names, weights, found: of each reward.
        token_rewards: a weight, and a reward at each token of the trajectory; all of them are added.
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
    at_tokens, wrong = _at_tokens(token_rewards, len(drawn.tokens))
    if isinstance(total, Unscored) or wrong:
        return Rollout(prompt, drawn, None, total if isinstance(total, Unscored) else wrong, parts)
    return Rollout(prompt, drawn, total, parts=parts, token_rewards=at_tokens)


def _at_tokens(weighed: Sequence[tuple[float, Sequence[float]]], size: int) -> tuple[list[float] | None, Unscored | None]:
    """The sum of rewards at each token; or why there is none."""
    if any(len(each) != size for _, each in weighed):
        return None, Unscored("wrong_length", f"a reward gave rewards at another number of tokens than {size}")
    sums = [sum(weight * each[at] for weight, each in weighed) for at in range(size)]
    wrong = next((one for one in (finite(value, "") for value in sums) if isinstance(one, Unscored)), None)
    return (sums if weighed else None), wrong
