"""What every kind of rows has: its columns, how rows become a batch, a row of full length to measure memory with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    from raylm.data.batch import Batch

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

    @property
    def name(self) -> str:
        """Kind of the artifact."""
        return type(self).__name__

    def collate(self, rows: Sequence[Row], weights: Sequence[float], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        """One batch of `rows`; those of weight 0 only fill up a rank's share, and none of their tokens counts.

        The sequences of a row stand apart: first the first sequence of every row, then the second of every row.
        """
        raise NotImplementedError

    def mismatched(self, rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
        """`rows` with the answers of `others` to other prompts. Raises NotImplementedError for kinds that have no answers."""
        raise NotImplementedError(f"{self.name} have no answers that could change places")

    def longest(self, length: int, vocab_size: int) -> Row:
        """A row whose sequences have `length` tokens that count."""
        raise NotImplementedError


def answered(prompt: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of prompt and answer, and their mask: the answer alone counts."""
    import numpy as np

    return np.concatenate([prompt, answer]), np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))])


def counting(length: int, vocab_size: int) -> np.ndarray:
    """Some tokens, int64 [length]."""
    import numpy as np

    return np.arange(length) % vocab_size
