"""The `dialogue_loss` task: the loss on the assistant's tokens of held-out dialogues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, DialoguesRef
from raylm.data.shards import Rows
from raylm.evaluate.instances import Graded, asked_id, source_of

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

    def grade(self, lm: LM, rows: Rows) -> list[Graded]:
        """Nats of each dialogue's assistant tokens; its weight is their number."""
        picked = [rows[index] for index in range(min(self.num_rows, len(rows)))]
        sums = lm.logprob_sums([row["tokens"] for row in picked], [row["mask"] for row in picked])
        counts = [float(row["mask"][1:].sum()) for row in picked]
        return [
            Graded(
                asked_id(row["tokens"], row["mask"]),
                {"dialogue_loss": -value},
                {"dialogue_loss": count},
                source_of(row),
                lm.tokenizer.decode(row["tokens"]),
                "",
                int(count),
                seconds,
            )
            for row, value, count, seconds in zip(picked, sums, counts, lm.seconds, strict=True)
            if math.isfinite(value)
        ]
