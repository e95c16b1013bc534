"""Rendered prompts: what generators answer; nothing of them counts in a loss."""

from __future__ import annotations

from typing import ClassVar

from raylm.data.kinds.kind import Kind, Row, counting
from raylm.data.padding_free import Tree


class Prompts(Kind):
    """What RL and evaluation read."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "messages", "ground_truth", "columns")

    def tree(self, row: Row) -> Tree:
        import numpy as np

        return Tree(row["tokens"][:0], [row["tokens"]], [np.zeros(len(row["tokens"]))])

    def longest(self, length: int, vocab_size: int) -> Row:
        return {"tokens": counting(length, vocab_size)}
