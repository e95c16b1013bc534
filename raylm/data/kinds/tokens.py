"""Packed rows of tokens: every token counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raylm.data.batch import Batch, pad
from raylm.data.kinds.kind import Kind, Row, counting

if TYPE_CHECKING:
    import torch


class Tokens(Kind):
    """What pretraining reads."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "starts")
    packed: ClassVar[bool] = True

    def collate(self, rows: Sequence[Row], weights: Sequence[float], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        import numpy as np

        tokens = [row["tokens"] for row in rows]
        # rows that were chosen or cleaned may say which tokens count
        masks = [row.get("mask", np.ones(len(row["tokens"]))) for row in rows]
        return pad(tokens, masks, pad_id, device, row_weights=weights)

    def longest(self, length: int, vocab_size: int) -> Row:
        return {"tokens": counting(length, vocab_size)}
