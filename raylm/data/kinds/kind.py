"""What every kind of rows has: its columns, how rows become a batch, a row of full length to measure memory with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from raylm.data.batch import Batch, pad, with_documents
from raylm.data.padding_free import Tree, lay

if TYPE_CHECKING:
    import numpy as np
    import torch

Row = dict[str, Any]


class Kind:
    """Rows of one kind of artifact."""

    columns: ClassVar[tuple[str, ...]] = ()
    """What a row holds beside `id` and `source`."""
    sequences: ClassVar[int] = 1
    """Sequences of tokens that one row becomes."""
    packed: ClassVar[bool] = False
    """Whether a row may hold several documents, which begin at its `starts`."""
    apart: ClassVar[bool] = False
    """Whether documents of one row are kept apart unless training says otherwise."""
    padding_free: ClassVar[bool] = False
    """Whether rows are laid without padding wherever that can be: they differ in length, or share what they begin with."""

    @property
    def name(self) -> str:
        """Kind of the artifact."""
        return type(self).__name__

    def collate(
        self,
        rows: Sequence[Row],
        weights: Sequence[float],
        pad_id: int,
        device: torch.device | str = "cpu",
        *,
        document_mask: bool = False,
        padding_free: bool = False,
    ) -> Batch:
        """One batch of `rows`; those of weight 0 only fill up a rank's share, and none of their tokens counts.

        The sequences of a row stand apart: first the first sequence of every row, then the second of every row.

        Args:
            document_mask: keep the documents of a packed row apart.
            padding_free: lay them one behind the other, see `raylm.data.padding_free`.
        """
        trees, columns = [self.tree(row) for row in rows], self.values(rows)
        if padding_free:
            trees = trees if document_mask else [tree._replace(starts=()) for tree in trees]
            return lay(trees, pad_id, device, row_weights=weights, columns=columns)
        sequences = zip(*(tree.sequences() for tree in trees), strict=True)
        tokens, masks = zip(*(each for of_rows in sequences for each in of_rows), strict=True)
        batch = pad(tokens, masks, pad_id, device, row_weights=weights, columns=columns)
        return with_documents(batch, [tree.starts for tree in trees]) if document_mask else batch

    def tree(self, row: Row) -> Tree:
        """The sequences of one row, and what they begin with."""
        raise NotImplementedError

    def values(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """What a batch has as `columns` of these rows."""
        return {}

    def mismatched(self, rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
        """`rows` with the answers of `others` to other prompts. Raises NotImplementedError for kinds that have no answers."""
        raise NotImplementedError(f"{self.name} have no answers that could change places")

    def longest(self, length: int, vocab_size: int) -> Row:
        """A row whose sequences have `length` tokens that count."""
        raise NotImplementedError


def answered(prompt: np.ndarray, *answers: np.ndarray) -> Tree:
    """A prompt and answers to it, which alone count."""
    import numpy as np

    return Tree(prompt, answers, [np.ones(len(answer)) for answer in answers])


def counting(length: int, vocab_size: int) -> np.ndarray:
    """Some tokens, int64 [length]."""
    import numpy as np

    return np.arange(length) % vocab_size
