"""Takes rows and a step number, leaves this rank's micro batches of that step: a pure function, so resume needs no state."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raylm.data.order import batch_indices
from raylm.data.shards import Rows
from raylm.model.logprobs import Padded, pad

if TYPE_CHECKING:
    import torch


class Micro(NamedTuple):
    """Rows of one forward pass."""

    padded: Padded
    weight: float
    """Number of tokens (Tokens, Dialogues) or pairs (Pairs) that count."""
    row_weight_P: torch.Tensor
    """1 for a real row or pair, 0 for one that only fills up a rank's share."""


class Batches:
    """The order of rows depends on seed and step alone: 1, 2 or 8 ranks see the same global batch.

    Args:
        rows: the rows of one split.
        kind: kind of their artifact.
        batch: rows per global batch.
        micro: rows per forward pass and rank.
    """

    def __init__(
        self,
        rows: Rows,
        kind: str,
        *,
        batch: int,
        micro: int,
        seed: int,
        pad_id: int,
        rank: int,
        world: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._rows, self._kind, self._batch, self._micro, self._seed = rows, kind, batch, micro, seed
        self._pad_id, self._rank, self._world, self._device = pad_id, rank, world, device

    def indices(self, step: int) -> list[int]:
        """Row numbers of the global batch of `step`; a batch may reach over the end of an epoch."""
        return batch_indices(len(self._rows), self._batch, step, self._seed)

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
        counted = sum(weights) if self._kind == "Pairs" else float(padded.weight_BT.sum())
        return Micro(padded, counted, torch.tensor(weights, device=self._device))
