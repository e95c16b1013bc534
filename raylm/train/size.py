"""The size of a training run: rows per batch and number of steps.

The batch is global and in rows or tokens; ranks, mesh and micro batch are derived and change neither it nor the learning rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    from raylm.train.config import Train


class Size(NamedTuple):
    """What a run comes to."""

    batch: int
    """Rows of a global batch."""
    steps: int
    """Optimizer steps."""
    tokens_per_row: float
    """Mean tokens of a row, as far as the facts say; nan where they do not."""


def size_of(cfg: Train, facts: list[dict[str, Any]], num_rows: list[int]) -> Size:
    """The run's size from the facts and the training rows of each artifact.

    Raises:
        ConfigError: tokens are asked for and the rows do not say how many they have, or a batch holds less than a row.
    """
    rows = sum(num_rows)
    tokens = sum(fact.get("num_tokens") or math.nan for fact in facts)
    per_row = tokens / rows
    batch = cfg.batch or _rows_of(cfg.batch_tokens or 0, per_row, "batch_tokens")
    if cfg.steps:
        return Size(batch, cfg.steps, per_row)
    wanted = cfg.epochs * rows if cfg.epochs else _rows_of(cfg.tokens or 0, per_row, "tokens")
    return Size(batch, max(1, math.ceil(wanted / batch)), per_row)


def _rows_of(tokens: int, per_row: float, key: str) -> int:
    if math.isnan(per_row):
        raise ConfigError(f"{key} needs rows that say how many tokens they hold", next="say the batch in rows, or steps")
    if tokens < per_row / 2:
        raise ConfigError(f"{key} = {tokens} is less than a row of {per_row:.0f} tokens", next=f"raise {key}")
    return max(1, round(tokens / per_row))
