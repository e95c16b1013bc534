"""Labelled texts: a text or a dialogue, and the class or the number that stands for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from raylm.data.kinds.kind import Kind, Row, counting
from raylm.data.padding_free import Tree


class Labelled(Kind):
    """What sequence classifiers and pointwise reward models read. Column `label`: int64 [P], the place of the class; or
    float32 [P], a number."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "label")

    def tree(self, row: Row) -> Tree:
        import numpy as np

        tokens = np.asarray(row["tokens"])
        return Tree(tokens[:0], [tokens], [np.ones(len(tokens))])

    def values(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        import numpy as np

        labels = np.asarray([row["label"] for row in rows])
        return {"label": labels.astype(np.int64 if np.issubdtype(labels.dtype, np.integer) else np.float32)}

    def longest(self, length: int, vocab_size: int) -> Row:
        return {"tokens": counting(length, vocab_size), "label": 0}
