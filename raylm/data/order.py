"""Takes a seed and a step, leaves the row numbers of that step's global batch: the same for any number of ranks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def batch_indices(num_rows: int, batch: int, step: int, seed: int) -> list[int]:
    """Row numbers of batch `step`. Every epoch has an order of its own; a batch may reach over the end of an epoch."""
    at = range(step * batch, (step + 1) * batch)
    return [int(_order(num_rows, seed, position // num_rows)[position % num_rows]) for position in at]


@lru_cache(maxsize=4)
def _order(num_rows: int, seed: int, epoch: int) -> Any:
    import numpy as np

    return np.random.default_rng([seed, epoch]).permutation(num_rows)
