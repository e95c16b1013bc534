"""The rows of one forward pass as one rectangle of tokens: what training, RL, evaluation and perplexity all hand to a model.

padded         a sequence is a row of the rectangle
padding-free   several sequences share a row, see `raylm.data.padding_free`

Shapes: B rows and T tokens of the rectangle, P rows of data, S sequences (a pair of answers is one row of data and two sequences)
and L tokens of the longest; padded, these are B and T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

Item = TypeVar("Item")


class Taught(NamedTuple):
    """A teacher's distribution at each position in front of a token that counts (as scores are); 0 elsewhere."""

    id_BTK: torch.Tensor
    """Its K likeliest tokens, int."""
    logprob_BTK: torch.Tensor
    """Their log-probabilities."""
    rest_logprob_BT: torch.Tensor
    """That of all others together."""


class Batch(NamedTuple):
    """Sequences of unequal length: padded on the right, or one behind the other."""

    tokens_BT: torch.Tensor
    attend_BT: torch.Tensor
    """1 on real tokens, 0 on padding."""
    weight_BT: torch.Tensor
    """1 on tokens that count (a loss mask); never 1 on the first token, which nothing predicts."""
    row_weight_P: torch.Tensor
    """1 for a real row, 0 for one that only fills up a rank's share."""
    rows: tuple[int, ...] = ()
    """Numbers of the real rows; those that only fill up come last and are left out."""
    document_BT: torch.Tensor | None = None
    """Number of each token's document, -1 on padding: a token sees no other document. None: a sequence is one document."""
    position_BT: torch.Tensor | None = None
    """Position of each token in its document; None counts through the sequence."""
    columns: Mapping[str, torch.Tensor] = {}
    """What else the row kind knows of each row, [P] each, such as the `label` of Unpaired."""
    mismatched: Batch | None = None
    """The same prompts with the completions of the rows that follow in the global batch, where an objective needs them."""
    prefix_BT: torch.Tensor | None = None
    """Number of the document that a token's document goes on from, and sees too; its own where there is none. None: nowhere."""
    place_SL: torch.Tensor | None = None
    """Where sequences lie without padding: the place of each of their tokens in the flattened rectangle, -1 behind their ends.
    None: each row of the rectangle is a sequence."""

    scores: tuple[Mapping[str, Any], ...] = ()
    """What was stored of each row ahead of training (`raylm.trainer.stored_scores`); of those that only fill up too."""
    taught: Taught | None = None
    """What a teacher says of them, where an objective needs it."""

    @property
    def counted_BT(self) -> torch.Tensor:
        """1 on real tokens of real rows, 0 on padding and on rows that only fill up; all sequences of a real row are real."""
        if self.place_SL is None:
            return self.attend_BT * self.row_weight_P.repeat(len(self.attend_BT) // len(self.row_weight_P))[:, None]
        weight_S = self.row_weight_P.repeat(len(self.place_SL) // len(self.row_weight_P))
        own_SL = self.place_SL >= 0
        counted_N = weight_S.new_zeros(self.attend_BT.numel())
        counted_N[self.place_SL[own_SL]] = weight_S[:, None].expand_as(own_SL)[own_SL]
        return counted_N.view(self.attend_BT.shape)

    def by_sequence(self, values_BT: torch.Tensor) -> torch.Tensor:
        """The values of each sequence, [S, L], 0 behind its end; what sequences share, each has. Gradients go through.

        Args:
            values_BT: of tokens, or of the positions in front of them (as scores are).
        """
        if self.place_SL is None:
            return values_BT
        found_SL = values_BT.flatten()[self.place_SL.clamp(min=0)]
        return found_SL.masked_fill(self.place_SL < 0, 0.0)

    def sums(self, values_BT: torch.Tensor) -> torch.Tensor:
        """The sum of each sequence, float64 [S]: of Pairs the chosen answers come first, then the rejected ones. Losses compare
        sums that are large beside their difference.

        Args:
            values_BT: as in `by_sequence`; 0 where nothing counts, as scores are.
        """
        return self.by_sequence(values_BT).double().sum(1)


def pad(
    sequences: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    pad_id: int,
    device: torch.device | str = "cpu",
    *,
    row_weights: Sequence[float] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Batch:
    """Right-pad `sequences` (int) with `pad_id`; `masks` say which tokens count.

    Args:
        row_weights: see `Batch.row_weight_P`; a row of weight 0 has no token that counts. None: all are real.
        columns: more values of each row, see `Batch.columns`.
    """
    import numpy as np
    import torch

    weights = np.ones(len(sequences), dtype=np.float32) if row_weights is None else np.asarray(row_weights, dtype=np.float32)
    length = max(len(sequence) for sequence in sequences)
    tokens = np.full((len(sequences), length), pad_id, dtype=np.int64)
    attend, weight = np.zeros(tokens.shape, dtype=np.int64), np.zeros(tokens.shape, dtype=np.float32)
    for at, (sequence, mask) in enumerate(zip(sequences, masks, strict=True)):
        tokens[at, : len(sequence)] = sequence
        attend[at, : len(sequence)] = 1
        weight[at, : len(sequence)] = np.asarray(mask, dtype=np.float32) * weights[at % len(weights)]
    weight[:, 0] = 0.0
    tokens_BT, attend_BT, weight_BT, row_weight_P = (
        torch.from_numpy(values).to(device) for values in (tokens, attend, weight, weights)
    )
    more = {name: torch.as_tensor(values, device=device) for name, values in (columns or {}).items()}
    return Batch(tokens_BT, attend_BT, weight_BT, row_weight_P, columns=more)


def with_documents(batch: Batch, starts: Sequence[Sequence[int]]) -> Batch:
    """`batch` with documents, which begin at `starts`, that do not see each other; no document's first token counts."""
    import numpy as np
    import torch

    from raylm.data.boundaries import document_ids, position_ids

    shape, device = batch.tokens_BT.shape, batch.tokens_BT.device
    documents, positions = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (found, length) in enumerate(zip(starts, batch.attend_BT.sum(1).tolist(), strict=True)):
        documents[row, :length] = document_ids(found, length)
        positions[row, :length] = position_ids(found, length)
    document_BT, position_BT = (torch.from_numpy(values).to(device) for values in (documents, positions))
    return batch._replace(document_BT=document_BT, position_BT=position_BT, weight_BT=batch.weight_BT * (position_BT > 0).float())


def share_of(items: Sequence[Item], rank: int, world: int, micro: int) -> list[list[tuple[Item, float]]]:
    """This rank's items of a global batch, in micro batches, each item with its weight.

    Every rank gets equally many, because ranks meet in each micro batch: a share that is short is filled up with the first
    item, which then weighs 0.
    """
    size = -(-len(items) // world)
    mine = [(item, 1.0) for item in items[rank::world]]
    mine += [(items[0], 0.0)] * (size - len(mine))
    return [mine[at : at + micro] for at in range(0, size, micro)]
