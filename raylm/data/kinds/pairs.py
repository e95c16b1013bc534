"""Preference pairs: one prompt, a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raylm.data.batch import Batch, pad
from raylm.data.kinds.kind import Kind, Row, answered, counting

if TYPE_CHECKING:
    import torch


class Pairs(Kind):
    """What DPO and reward models read: the sequences with the chosen answers come first, then those with the rejected ones."""

    columns: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    sequences: ClassVar[int] = 2

    def collate(self, rows: Sequence[Row], weights: Sequence[float], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        tokens, masks = zip(*(answered(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in rows), strict=True)
        return pad(tokens, masks, pad_id, device, row_weights=weights)

    def longest(self, length: int, vocab_size: int) -> Row:
        tokens = counting(length, vocab_size)
        return {"prompt": tokens[:0], "chosen": tokens, "rejected": tokens}
