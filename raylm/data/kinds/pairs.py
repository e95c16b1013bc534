"""Preference pairs: one prompt, a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from raylm.data.kinds.kind import Kind, Row, answered, counting
from raylm.data.padding_free import Tree


class Pairs(Kind):
    """What DPO and reward models read: the sequences with the chosen answers come first, then those with the rejected ones."""

    columns: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected", "margin")
    padding_free: ClassVar[bool] = True
    sequences: ClassVar[int] = 2

    def tree(self, row: Row) -> Tree:
        return answered(row["prompt"], row["chosen"], row["rejected"])

    def values(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        # by how much the chosen answer is better, where the form kept that; a mixture may have rows that do not say it
        if not any("margin" in row for row in rows):
            return {}
        import numpy as np

        return {"margin": np.array([row.get("margin", 0.0) for row in rows], dtype=np.float32)}

    def longest(self, length: int, vocab_size: int) -> Row:
        tokens = counting(length, vocab_size)
        return {"prompt": tokens[:0], "chosen": tokens, "rejected": tokens}
