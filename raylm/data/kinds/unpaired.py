"""Judged answers: a prompt, one completion, and a label that says whether it is a good one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raylm.data.batch import Batch, pad
from raylm.data.kinds.kind import Kind, Row, answered, counting

if TYPE_CHECKING:
    import torch


class Unpaired(Kind):
    """What losses such as KTO's read. Column `label`: bool [P]."""

    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "label")

    def collate(self, rows: Sequence[Row], weights: Sequence[float], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        tokens, masks = zip(*(answered(row["prompt"], row["completion"]) for row in rows), strict=True)
        labels = {"label": [bool(row["label"]) for row in rows]}
        return pad(tokens, masks, pad_id, device, row_weights=weights, columns=labels)

    def mismatched(self, rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
        return [{**row, "completion": other["completion"]} for row, other in zip(rows, others, strict=True)]

    def longest(self, length: int, vocab_size: int) -> Row:
        tokens = counting(length, vocab_size)
        return {"prompt": tokens[:0], "completion": tokens, "label": True}
