"""Judged answers: a prompt, one completion, and a label that says whether it is a good one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from raylm.data.kinds.kind import Kind, Row, answered, counting
from raylm.data.padding_free import Tree


class Unpaired(Kind):
    """What losses such as KTO's read. Column `label`: bool [P]."""

    columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "label")
    padding_free: ClassVar[bool] = True

    def tree(self, row: Row) -> Tree:
        return answered(row["prompt"], row["completion"])

    def values(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        return {"label": [bool(row["label"]) for row in rows]}

    def mismatched(self, rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
        return [{**row, "completion": other["completion"]} for row, other in zip(rows, others, strict=True)]

    def longest(self, length: int, vocab_size: int) -> Row:
        tokens = counting(length, vocab_size)
        return {"prompt": tokens[:0], "completion": tokens, "label": True}
