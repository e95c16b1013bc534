"""The `dialogue_loss` task: the loss on the assistant's tokens of held-out dialogues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, DialoguesRef
from raylm.data.shards import Rows

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class DialogueLoss(Config):
    """Cross-entropy of assistant tokens in nats: what supervised fine-tuning lowers."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"dialogue_loss": "low"}

    kind: Literal["dialogue_loss"] = "dialogue_loss"
    rows: DialoguesRef
    """Dialogues; their held-out split is used."""
    num_rows: int = Field(default=256, gt=0)
    """Rows at most."""

    def grade(self, lm: LM, rows: Rows) -> dict[str, float]:
        """Mean over all assistant tokens."""
        picked = [rows[index] for index in range(min(self.num_rows, len(rows)))]
        sums = lm.logprob_sums([row["tokens"] for row in picked], [row["mask"] for row in picked])
        scored = [(row, value) for row, value in zip(picked, sums, strict=True) if math.isfinite(value)]
        return {"dialogue_loss": -sum(value for _, value in scored) / float(sum(row["mask"][1:].sum() for row, _ in scored))}
