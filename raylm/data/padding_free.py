"""Lays sequences one behind the other in few rows without padding, what several of them begin with once.

row:       prompt less its last token | that token, answer | that token, other answer | next prompt ...
document:  0                          | 1                  | 2                        | 3
prefix:    0                          | 0                  | 0                        | 3
position:  0 1 2                      | 3 4 5              | 3 4 5 6                  | 0 1

A token sees its own document up to itself, and the document's prefix. So the scores of every sequence are those that it has
alone, and what it begins with is computed once. Any number of sequences may share a prefix: pairs, or completions of one prompt.

Shapes: S sequences, L tokens of the longest, B rows laid out, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.data.batch import Batch

if TYPE_CHECKING:
    import numpy as np
    import torch

MAX_LENGTH = 8192
"""Tokens of a row, unless one tree is longer: masks of attention, where a device needs them, grow with their square."""


class Tree(NamedTuple):
    """Sequences that begin alike."""

    prefix: np.ndarray
    """The tokens that they share, int; none of them counts."""
    branches: Sequence[np.ndarray]
    """What each goes on with, one token at least."""
    masks: Sequence[np.ndarray]
    """Which tokens of each branch count."""
    starts: Sequence[int] = ()
    """Where documents begin inside a single branch without a prefix: they do not see each other."""

    def sequences(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens and mask of each sequence, as they are where each stands alone."""
        import numpy as np

        if not len(self.prefix):
            return list(zip(self.branches, self.masks, strict=True))
        nothing = np.zeros(len(self.prefix))
        return [
            (np.concatenate([self.prefix, branch]), np.concatenate([nothing, mask]))
            for branch, mask in zip(self.branches, self.masks, strict=True)
        ]


class _Laid(NamedTuple):
    """One tree, laid out. All int or float [N]."""

    tokens: np.ndarray
    weight: np.ndarray
    document: np.ndarray
    prefix: np.ndarray
    position: np.ndarray
    places: list[np.ndarray]
    """Of each sequence, where its tokens stand."""


def lay(
    trees: Sequence[Tree],
    pad_id: int,
    device: torch.device | str = "cpu",
    *,
    row_weights: Sequence[float],
    columns: Mapping[str, Any] | None = None,
    max_length: int = MAX_LENGTH,
) -> Batch:
    """The batch of `trees`, one for each row of data. Of the sequences (`Batch.place_SL`) the first branches of all trees come
    first, then the second ones; where a tree has fewer branches than another, its rows there are empty.

    Args:
        row_weights: see `Batch.row_weight_P`; a row of weight 0 has no token that counts.
        columns: see `Batch.columns`.
        max_length: of a row, unless one tree is longer.
    """
    import numpy as np
    import torch

    laid = [_laid(tree, weight) for tree, weight in zip(trees, row_weights, strict=True)]
    rows = _rows([len(each.tokens) for each in laid], max_length)
    length = max(sum(len(laid[at].tokens) for at in row) for row in rows)
    shape = (len(rows), length)
    tokens, attend = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    weight = np.zeros(shape, dtype=np.float32)
    document, prefix, position = np.full(shape, -1), np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    branches = max(len(tree.branches) for tree in trees)
    place = np.full((branches * len(trees), max(len(at) for each in laid for at in each.places)), -1)
    for row, members in enumerate(rows):
        start = number = 0
        for member in members:
            each = laid[member]
            at = slice(start, start + len(each.tokens))
            tokens[row, at], attend[row, at], weight[row, at] = each.tokens, 1, each.weight
            document[row, at], prefix[row, at], position[row, at] = each.document + number, each.prefix + number, each.position
            for branch, places in enumerate(each.places):
                # the first sequence of every row of data, then the second of every row
                place[branch * len(trees) + member, : len(places)] = places + row * length + start
            start, number = at.stop, number + int(each.document[-1]) + 1

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return Batch(
        tensor(tokens),
        tensor(attend),
        tensor(weight),
        tensor(np.asarray(row_weights, dtype=np.float32)),
        document_BT=tensor(document),
        position_BT=tensor(position),
        columns={name: torch.as_tensor(values, device=device) for name, values in (columns or {}).items()},
        prefix_BT=tensor(prefix) if (document != prefix).any() else None,
        place_SL=tensor(place),
    )


def _laid(tree: Tree, weight: float) -> _Laid:
    import numpy as np

    shared = len(tree.prefix) > 1 and len(tree.branches) > 1
    if not shared:
        return _stacked(tree, weight)
    # the last token that is shared is asked for the first of each branch: it stands in front of each
    before, last = np.asarray(tree.prefix[:-1]), tree.prefix[-1:]
    tokens, masks = [before], [np.zeros(len(before))]
    document, position = [np.zeros(len(before), dtype=np.int64)], [np.arange(len(before))]
    places, start = [], len(before)
    for number, (branch, mask) in enumerate(zip(tree.branches, tree.masks, strict=True), start=1):
        size = len(branch) + 1
        tokens.append(np.concatenate([last, branch]))
        masks.append(np.concatenate([[0.0], mask]) * weight)
        document.append(np.full(size, number))
        position.append(np.arange(len(before), len(before) + size))
        places.append(np.concatenate([np.arange(len(before)), np.arange(start, start + size)]))
        start += size
    whole = np.concatenate(tokens)
    return _Laid(
        whole,
        np.concatenate(masks),
        np.concatenate(document),
        np.zeros(len(whole), dtype=np.int64),
        np.concatenate(position),
        places,
    )


def _stacked(tree: Tree, weight: float) -> _Laid:
    """One document after the other: nothing is shared, or what is shared is one token that each branch needs anyway."""
    import numpy as np

    sequences = tree.sequences()
    document, position, places, start = [], [], [], 0
    for tokens, _ in sequences:
        inner = [0, *(at for at in tree.starts if 0 < at < len(tokens)), len(tokens)]
        for low, high in pairwise(inner):
            document.append(np.full(high - low, len(document)))
            position.append(np.arange(high - low))
        places.append(np.arange(start, start + len(tokens)))
        start += len(tokens)
    where = np.concatenate(position)
    # nothing predicts a document's first token
    counts = np.concatenate([mask for _, mask in sequences]) * (where > 0) * weight
    numbers = np.concatenate(document)
    return _Laid(np.concatenate([tokens for tokens, _ in sequences]), counts, numbers, numbers, where, places)


def _rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which lengths share a row: as few rows as `most` allows, about equally long, each in the order of its members."""
    if sum(lengths) <= most:
        return [list(range(len(lengths)))]
    most = max(most, max(lengths))
    count = -(-sum(lengths) // most)
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
            row = sizes.index(min(sizes))
            rows[row].append(at)
            sizes[row] += lengths[at]
        if max(sizes) <= most:
            return [sorted(row) for row in rows]
        count += 1
