"""The `preference` task: how often the chosen answer is more likely than the rejected one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, PairsRef
from raylm.data.shards import Rows

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class Preference(Config):
    """Share of pairs with log p(chosen) > log p(rejected): what preference alignment raises; 0.5 is chance."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"preference": "high"}

    kind: Literal["preference"] = "preference"
    rows: PairsRef
    """Pairs; their held-out split is used."""
    num_rows: int = Field(default=256, gt=0)
    """Pairs at most."""

    def grade(self, lm: LM, rows: Rows) -> dict[str, float]:
        """Ties count half."""
        import numpy as np

        picked = [rows[index] for index in range(min(self.num_rows, len(rows)))]
        sums = {}
        for side in ("chosen", "rejected"):
            tokens = [np.concatenate([row["prompt"], row[side]]) for row in picked]
            masks = [np.concatenate([np.zeros(len(row["prompt"])), np.ones(len(row[side]))]) for row in picked]
            sums[side] = lm.logprob_sums(tokens, masks)
        scored = [pair for pair in zip(sums["chosen"], sums["rejected"], strict=True) if all(map(math.isfinite, pair))]
        wins = [float(c > r) + 0.5 * float(c == r) for c, r in scored]
        return {"preference": sum(wins) / len(wins)}
