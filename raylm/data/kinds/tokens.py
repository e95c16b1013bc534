"""Packed rows of tokens: every token counts."""

from __future__ import annotations

from typing import ClassVar

from raylm.data.kinds.kind import Kind, Row, counting
from raylm.data.padding_free import Tree


class Tokens(Kind):
    """What pretraining reads."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "starts")
    packed: ClassVar[bool] = True

    def tree(self, row: Row) -> Tree:
        import numpy as np

        tokens = row["tokens"]
        # rows that were chosen or cleaned may say which tokens count
        return Tree(tokens[:0], [tokens], [row.get("mask", np.ones(len(tokens)))], row.get("starts", ()))

    def longest(self, length: int, vocab_size: int) -> Row:
        return {"tokens": counting(length, vocab_size)}
