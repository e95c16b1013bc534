"""Takes rows and a step number, leaves this rank's micro batches of that step: a pure function, so resume needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.data.order import batch_indices
from raylm.data.schedule import Mixed
from raylm.data.shards import Rows
from raylm.model.logprobs import Padded, pad

if TYPE_CHECKING:
    import torch


class Micro(NamedTuple):
    """Rows of one forward pass."""

    padded: Padded
    row_weight_P: torch.Tensor
    """1 for a real row or pair, 0 for one that only fills up a rank's share."""
    rows: tuple[int, ...] = ()
    """Numbers of the real ones, as they were read."""

    @property
    def counted_BT(self) -> torch.Tensor:
        """1 on real tokens of real rows, 0 on padding and on rows that only fill up; both rows of a pair are real."""
        rows = len(self.padded.attend_BT)
        return self.padded.attend_BT * self.row_weight_P.repeat(rows // len(self.row_weight_P))[:, None]


class Batches:
    """The order of rows depends on seed and step alone: 1, 2 or 8 ranks see the same global batch.

    Args:
        rows: the rows of one split, or of several mixed: a length and rows by number.
        kind: kind of their artifact.
        batch: rows per global batch.
        micro: rows per forward pass and rank.
        document_mask: keep the documents of a packed row apart.
    """

    def __init__(
        self,
        rows: Rows | Mixed | Sequence[Any],
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
    ) -> None:
        self._rows, self._kind, self._batch, self._micro, self._seed = rows, kind, batch, micro, seed
        self._pad_id, self._rank, self._world, self._device = pad_id, rank, world, device
        self._document_mask = document_mask

    @property
    def rows(self) -> Any:
        """The rows of the split, by number."""
        return self._rows

    def indices(self, step: int) -> list[int]:
        """Row numbers of the global batch of `step`; a batch may reach over the end of an epoch."""
        if isinstance(self._rows, Mixed):
            return self._rows.indices(step * self._batch, self._batch, self._seed)
        return batch_indices(len(self._rows), self._batch, step, self._seed)

    def first(self, count: int) -> list[int]:
        """Up to `count` row numbers to measure on: the first ones, of a mixture in its shares."""
        return self._rows.first(count) if isinstance(self._rows, Mixed) else list(range(min(count, len(self._rows))))

    def at(self, step: int) -> list[Micro]:
        """This rank's micro batches of `step`; every rank gets equally many, because ranks meet in each."""
        return self.split(self.indices(step))

    def split(self, indices: list[int]) -> list[Micro]:
        """This rank's share of `indices`, in micro batches."""
        share = -(-len(indices) // self._world)
        mine: list[tuple[int, float]] = [(index, 1.0) for index in indices[self._rank :: self._world]]
        mine += [(indices[0], 0.0)] * (share - len(mine))
        return [self._collate(mine[at : at + self._micro]) for at in range(0, share, self._micro)]

    def _collate(self, picked: list[tuple[int, float]]) -> Micro:
        import numpy as np
        import torch

        rows = [self._rows[index] for index, _ in picked]
        weights = [weight for _, weight in picked]
        if self._kind == "Pairs":
            tokens, masks = [], []
            for side in ("chosen", "rejected"):
                for row, weight in zip(rows, weights, strict=True):
                    tokens.append(np.concatenate([row["prompt"], row[side]]))
                    masks.append(np.concatenate([np.zeros(len(row["prompt"])), np.full(len(row[side]), weight)]))
        else:
            tokens = [row["tokens"] for row in rows]
            masks = [
                np.asarray(row.get("mask", np.ones(len(row["tokens"]))), dtype=np.float32) * weight
                for row, weight in zip(rows, weights, strict=True)
            ]
        padded = pad(tokens, masks, self._pad_id, self._device)
        if self._document_mask:
            padded = apart(padded, [row.get("starts", ()) for row in rows])
        read = tuple(index for index, weight in picked if weight)
        return Micro(padded, torch.tensor(weights, device=self._device), read)


def apart(padded: Padded, starts: list[Sequence[int]]) -> Padded:
    """Rows whose documents, which begin at `starts`, do not see each other; no document's first token counts."""
    import numpy as np
    import torch

    from raylm.data.boundaries import document_ids, position_ids

    shape, device = padded.tokens_BT.shape, padded.tokens_BT.device
    documents, positions = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (found, length) in enumerate(zip(starts, padded.attend_BT.sum(1).tolist(), strict=True)):
        documents[row, :length] = document_ids(found, length)
        positions[row, :length] = position_ids(found, length)
    document_BT, position_BT = (torch.from_numpy(values).to(device) for values in (documents, positions))
    return padded._replace(
        document_BT=document_BT, position_BT=position_BT, weight_BT=padded.weight_BT * (position_BT > 0).float()
    )
