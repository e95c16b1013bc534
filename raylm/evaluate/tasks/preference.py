"""The `preference` task: how often the chosen answer is more likely than the rejected one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, PairsRef
from raylm.data.shards import Rows
from raylm.evaluate.instances import Graded, asked_id, source_of

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class Preference(Config):
    """Share of pairs with log p(chosen) > log p(rejected): what preference alignment raises; 0.5 is chance."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"preference": "high"}
    shares: ClassVar[tuple[str, ...]] = ("preference",)
    """Metrics that are shares of instances."""

    kind: Literal["preference"] = "preference"
    rows: PairsRef
    """Pairs; their held-out split is used."""
    num_rows: int = Field(default=256, gt=0)
    """Pairs at most."""

    def grade(self, lm: LM, rows: Rows) -> list[Graded]:
        """1.0 for each pair whose chosen answer is likelier, 0.5 for a tie."""
        import numpy as np

        picked = [rows[index] for index in range(min(self.num_rows, len(rows)))]
        sums, seconds = {}, np.zeros(len(picked))
        for side in ("chosen", "rejected"):
            tokens = [np.concatenate([row["prompt"], row[side]]) for row in picked]
            masks = [np.concatenate([np.zeros(len(row["prompt"])), np.ones(len(row[side]))]) for row in picked]
            sums[side] = lm.logprob_sums(tokens, masks)
            seconds += lm.seconds
        scored = zip(picked, sums["chosen"], sums["rejected"], seconds.tolist(), strict=True)
        graded = [
            Graded(
                asked_id(row["prompt"], row["chosen"], row["rejected"]),
                {"preference": float(chosen > rejected) + 0.5 * float(chosen == rejected)},
                {"preference": 1.0},
                source_of(row),
                lm.text(row["prompt"]),
                f"log p {chosen:.3f} chosen: {lm.text(row['chosen'])}\nlog p {rejected:.3f} rejected: {lm.text(row['rejected'])}",
                len(row["chosen"]) + len(row["rejected"]),
                spent,
            )
            for row, chosen, rejected, spent in scored
            if math.isfinite(chosen) and math.isfinite(rejected)
        ]
        # a pair is left out with either side
        lm.enough(graded, len(picked))
        return graded
