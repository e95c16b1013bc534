"""The `next_token` objective: cross-entropy of each next token."""

from __future__ import annotations

from typing import ClassVar, Literal

from raylm.train.objectives.objective import TokenLoss


class NextToken(TokenLoss):
    """Language modelling: pretraining on Tokens, supervised fine-tuning on Dialogues (assistant tokens only)."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens", "Dialogues")
    by_part: ClassVar[bool] = True
    padding_free: ClassVar[bool] = True

    kind: Literal["next_token"] = "next_token"
