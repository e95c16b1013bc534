"""Rendered prompts: what generators answer; nothing of them counts in a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from raylm.data.batch import Batch, pad
from raylm.data.kinds.kind import Kind, Row, counting

if TYPE_CHECKING:
    import torch


class Prompts(Kind):
    """What RL and evaluation read."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "messages", "ground_truth")

    def collate(self, rows: Sequence[Row], weights: Sequence[float], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        import numpy as np

        tokens = [row["tokens"] for row in rows]
        return pad(tokens, [np.zeros(len(row)) for row in tokens], pad_id, device, row_weights=weights)

    def longest(self, length: int, vocab_size: int) -> Row:
        return {"tokens": counting(length, vocab_size)}
