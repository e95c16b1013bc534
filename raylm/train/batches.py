"""The micro batches of a rank at a step, a pure function of rows and step: resuming needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylm.data.batch import Batch, share_of
from raylm.data.kinds import ROW_KINDS
from raylm.data.order import batch_indices
from raylm.data.schedule import Mixed as MixedRows
from raylm.data.shards import Rows

if TYPE_CHECKING:
    import torch

    from raylm.trainer.teacher_workers import Teachers


class Batches:
    """The order of rows depends on seed and step alone: 1, 2 or 8 ranks see the same global batch.

    Args:
        rows: the rows of one split, or of several mixed: a length and rows by number.
        kind: kind of their artifact.
        batch: rows per global batch.
        micro: rows per forward pass and rank.
        document_mask: keep the documents of a packed row apart.
        padding_free: lay sequences one behind the other, see `raylm.data.padding_free`.
        teachers: workers that score the rows of each batch, a step ahead (`Batch.scores`).
        mismatched: give each batch its prompts with the completions of other rows too, see `Batch.mismatched`.
    """

    def __init__(
        self,
        rows: Rows | MixedRows | Sequence[Any],
        kind: str,
        *,
        batch: int,
        micro: int,
        seed: int,
        pad_id: int,
        rank: int,
        world: int,
        device: torch.device | str = "cpu",
        document_mask: bool = False,
        mismatched: bool = False,
        padding_free: bool = False,
        teachers: Teachers | None = None,
    ) -> None:
        self._rows, self._kind, self._batch, self._micro, self._seed = rows, ROW_KINDS[kind], batch, micro, seed
        self._pad_id, self._rank, self._world, self._device = pad_id, rank, world, device
        self._teachers, self._ahead = teachers, dict[int, list[tuple[Batch, Any]]]()
        self._laid, self._mismatched = {"document_mask": document_mask, "padding_free": padding_free}, mismatched

    @property
    def rows(self) -> Any:
        """The rows of the split, by number."""
        return self._rows

    def indices(self, step: int) -> list[int]:
        """Row numbers of the global batch of `step`; a batch may reach over the end of an epoch."""
        if isinstance(self._rows, MixedRows):
            return self._rows.indices(step * self._batch, self._batch, self._seed)
        return batch_indices(len(self._rows), self._batch, step, self._seed)

    def first(self, count: int) -> list[int]:
        """Up to `count` row numbers to measure on: the first ones, of a mixture in its shares."""
        return self._rows.first(count) if isinstance(self._rows, MixedRows) else list(range(min(count, len(self._rows))))

    def at(self, step: int) -> list[Batch]:
        """This rank's micro batches of `step`; every rank gets equally many, because ranks meet in each."""
        asked = self._ahead.pop(step, None) or self._asked(self.indices(step))
        # teachers answer the next step's while this one's are learned from
        self._ahead = {step + 1: self._asked(self.indices(step + 1))} if self._teachers else {}
        return self._answered(asked)

    def split(self, indices: list[int]) -> list[Batch]:
        """This rank's share of `indices`, in micro batches."""
        return self._answered(self._asked(indices))

    def _asked(self, indices: list[int]) -> list[tuple[Batch, Any]]:
        """This rank's micro batches, each with what teachers were asked of it."""
        # a row's completion is set beside the next one's prompt: which rows meet depends on the global batch alone
        followed = list(zip(indices, indices[-1:] + indices[:-1], strict=True))
        return [
            self._collate(picked, self._rank + at)
            for at, picked in enumerate(share_of(followed, self._rank, self._world, self._micro))
        ]

    def _answered(self, asked: list[tuple[Batch, Any]]) -> list[Batch]:
        if self._teachers is None:
            return [batch for batch, _ in asked]
        return [batch._replace(scores=tuple(self._teachers.answers(reference))) for batch, reference in asked]

    def _collate(self, picked: list[tuple[tuple[int, int], float]], teacher: int) -> tuple[Batch, Any]:
        rows, weights = [self._rows[index] for (index, _), _ in picked], [weight for _, weight in picked]
        reference = self._teachers.ask(teacher, rows) if self._teachers else None
        batch = self._kind.collate(rows, weights, self._pad_id, self._device, **self._laid)
        if self._mismatched:
            others = self._kind.mismatched(rows, [self._rows[other] for (_, other), _ in picked])
            collated = self._kind.collate(others, weights, self._pad_id, self._device, **self._laid)
            batch = batch._replace(mismatched=collated)
        if "scores" in rows[0]:
            batch = batch._replace(scores=tuple(row["scores"] for row in rows))
        return batch._replace(rows=tuple(index for (index, _), weight in picked if weight)), reference
