"""Random mixtures around the natural one, spread over what the sources have rows for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

LEAST = 0.005
"""Smallest share of a source: one that nothing is drawn from cannot be told from one that does harm."""
SPREAD = (1.0, 12.0)
"""Concentration of the Dirichlet distribution times number of sources: from anywhere to near its middle."""
CANDIDATES = 8
"""Of so many draws the one farthest from all before it is taken."""


def caps_of(num_rows: Sequence[int], draws: int, max_epochs: float) -> np.ndarray:
    """Largest share of each source in a run of `draws` rows, float64 [sources]: none is seen more than `max_epochs` times.

    Raises:
        ConfigError: all sources together have too few rows for that.
    """
    import numpy as np

    caps = np.minimum(max_epochs * np.asarray(num_rows, dtype=np.float64) / draws, 1.0)
    if caps.sum() < 1.0:
        raise ConfigError(
            f"the run draws {draws} rows, its sources have {sum(num_rows)}: more than {max_epochs:g} epochs of each",
            next=f"shorten the run, add rows, or --max-epochs {draws / max(sum(num_rows), 1) * 1.01:.2g}",
        )
    return caps


def within(shares: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Shares [sources] that sum to one, at least LEAST and at most `caps`: what is above goes to the others in their ratio."""
    import numpy as np

    low = np.minimum(LEAST, caps)
    found = np.clip(shares / shares.sum(), low, caps)
    for _ in range(100):
        rest = 1.0 - found.sum()
        free = found < caps if rest > 0 else found > low
        if abs(rest) < 1e-12 or not free.any():
            break
        weights = np.where(free, found, 0.0)
        found = np.clip(found + rest * weights / weights.sum(), low, caps)
    return found


def draw(natural: np.ndarray, caps: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` mixtures [count, sources]; the first is the natural one. More of them begin with the same.

    Dirichlet around the natural mixture and around its flatter half-power, in turn, as RegMix does
    (https://arxiv.org/abs/2407.01492), with a concentration of its own each.
    """
    import numpy as np

    found, sources = [within(natural, caps)], len(natural)
    for number in range(1, count):
        rng = np.random.default_rng([seed, number])
        middle = natural if number % 2 else np.sqrt(natural) / np.sqrt(natural).sum()
        best, far = found[0], -1.0
        for _ in range(CANDIDATES):
            concentration = np.exp(rng.uniform(*np.log(SPREAD))) * sources
            drawn = within(rng.dirichlet(np.maximum(middle * concentration, 0.05)) + 1e-9, caps)
            nearest = min(float(np.abs(drawn - other).sum()) for other in found)
            if nearest > far:
                best, far = drawn, nearest
        found.append(best)
    return np.stack(found[:count])


def rounded(shares: Sequence[float]) -> list[float]:
    """Shares in ten-thousandths that sum to one: what a job file says, and the schedule of a mixture draws exactly."""
    units = [max(round(share * 10_000), 1) for share in shares]
    units[max(range(len(units)), key=units.__getitem__)] += 10_000 - sum(units)
    return [unit / 10_000 for unit in units]
