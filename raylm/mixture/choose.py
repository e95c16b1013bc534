"""The mixture of lowest predicted loss, near to what the proxies have tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raylm.mixture.draws import LEAST, within
from raylm.mixture.regression import Surface

if TYPE_CHECKING:
    import numpy as np

ROUNDS, TRIED = 30, 400
"""Rounds of the search, and mixtures in each."""


class Chosen(NamedTuple):
    """The optimum."""

    shares: np.ndarray
    predicted: float
    disagreement: float
    """Standard deviation of the forms' predictions there: it is counted against a mixture."""


def choose(
    surfaces: list[Surface], weights: np.ndarray, tried: np.ndarray, losses: np.ndarray, caps: np.ndarray, seed: int
) -> Chosen:
    """Search the simplex.

    Args:
        surfaces: one for each target.
        weights: of the targets, [targets].
        tried: shares of the proxies, [proxies, sources].
        losses: their weighted losses, [proxies]: the search begins at the best.
        caps: largest share of each source.

    A mixture counts as what is predicted plus how far the forms disagree, must lie between the smallest and largest share that
    any proxy had of each source, and no farther from the nearest proxy than half the proxies are from theirs.
    """
    import numpy as np

    rng = np.random.default_rng([seed, 1])
    low = np.maximum(tried.min(0), np.minimum(LEAST, caps))
    high = np.minimum(tried.max(0), caps)
    apart = np.abs(tried[:, None] - tried[None]).sum(-1) + np.diag(np.full(len(tried), np.inf))
    reach = max(float(np.median(apart.min(1))), 0.05)

    def cost(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        each = [surface.predict(shares) for surface in surfaces]
        mean = weights @ np.stack([one for one, _ in each])
        spread = weights @ np.stack([one for _, one in each])
        nearest = np.abs(shares[:, None] - tried[None]).sum(-1).min(1)
        outside = (shares < low - 1e-9).any(1) | (shares > high + 1e-9).any(1) | (nearest > reach)
        return np.where(outside, np.inf, mean + spread), mean, spread

    # the proxies themselves are within reach, whatever is predicted of the rest
    best = tried[np.argsort(losses)[: max(3, len(tried) // 4)]]
    width = 0.5
    for _ in range(ROUNDS):
        around = best[rng.integers(len(best), size=TRIED)] * np.exp(rng.normal(0.0, width, (TRIED, tried.shape[1])))
        moved = np.concatenate([best, np.stack([within(np.clip(one / one.sum(), low, high), caps) for one in around])])
        best, width = moved[np.argsort(cost(moved)[0], kind="stable")[:8]], width * 0.85
    _, mean, spread = cost(best[:1])
    return Chosen(best[0], float(mean[0]), float(spread[0]))
