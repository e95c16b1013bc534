"""Packing: where documents, whole or in pieces, are placed in rows of a fixed length.

Shapes: D documents, P pieces, R rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Pieces in order of row and position: `size` tokens of `document` from its token `offset` on. int64 [P] each.

    A piece that continues a document has `lead` more tokens in its row, before its own.
    """

    row: np.ndarray
    position: np.ndarray
    document: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    num_rows: int
    lead: int = 0

    def leads(self) -> np.ndarray:
        """Tokens that stand before each piece and are none of its document, [P]."""
        return np.where(self.offset > 0, self.lead, 0)

    def row_sizes(self) -> np.ndarray:
        """Tokens in each row, [R]."""
        return np.bincount(self.row, weights=self.size + self.leads(), minlength=self.num_rows).astype(np.int64)


def crop(sizes: np.ndarray, length: int) -> Layout:
    """Documents end to end, cut every `length`; the last, partial row is left out."""
    ends = np.cumsum(sizes)
    used = int(ends[-1]) // length * length if len(ends) else 0
    # a piece begins where a document or a row does
    begins = np.union1d(ends - sizes, np.arange(0, used, length))
    begins = begins[begins < used]
    document = np.searchsorted(ends, begins, side="right")
    size = np.diff(np.append(begins, used))
    return Layout(begins // length, begins % length, document, begins - (ends - sizes)[document], size, used // length)


def best_fit(sizes: np.ndarray, length: int, buffer: int, lead: int = 0) -> Layout:
    """Rows that begin with a document or with the rest of one; a document is cut only where nothing fits the gap whole.

    The gap takes the longest piece that fits (best fit). Where none does, a piece is cut to fill it, one of a document that
    is cut already before one that is whole, the shortest first; its rest goes back into the buffer, so no token is lost.
    Documents longer than a row fill whole rows at once. Only one row has room left (seldom one that is not the last), or
    with a `lead` a gap that a lead would fill alone. Best-fit packing: https://arxiv.org/abs/2404.10830; there the documents
    are cut beforehand.

    Args:
        buffer: documents that may wait for their place.
        lead: tokens that go before the rest of a cut document (a repeated bos).
    """
    pieces: list[tuple[int, int, int, int, int]] = []
    whole: list[tuple[int, int, int]] = []  # (tokens with lead, document, offset), shortest first, oldest first
    rests: list[tuple[int, int, int]] = []
    num_documents, next_document, num_rows = len(sizes), 0, 1
    row, used = 0, 0
    lengths: list[int] = sizes.tolist()

    def enter(document: int) -> None:
        nonlocal num_rows
        offset, left = 0, lengths[document]
        while left + (lead if offset else 0) > length:
            size = length - (lead if offset else 0)
            pieces.append((num_rows, 0, document, offset, size))
            offset, left, num_rows = offset + size, left - size, num_rows + 1
        if offset:
            insort(rests, (left + lead, document, offset))
        elif left:
            insort(whole, (left, document, 0))

    while True:
        while next_document < num_documents and len(whole) + len(rests) < buffer:
            enter(next_document)
            next_document += 1
        if not whole and not rests:
            break
        gap = length - used
        pool = _with_longest(whole, rests, gap)
        if pool is not None:
            longest = pool[bisect_left(pool, (gap + 1,)) - 1][0]
            size, document, offset = pool.pop(bisect_left(pool, (longest,)))
            pieces.append((row, used, document, offset, size - (lead if offset else 0)))
            used += size
        else:
            pool = rests or whole
            size, document, offset = pool[0]
            taken = gap - (lead if offset else 0)
            if taken > 0:
                pool.pop(0)
                pieces.append((row, used, document, offset, taken))
                insort(rests, (size - gap + lead, document, offset + taken))
            used = length
        if used == length:
            row, used, num_rows = num_rows, 0, num_rows + 1
    if not used:
        # the open row is empty, and the last one that was begun
        num_rows -= 1
    return _sorted(pieces, num_rows, lead)


def first_fit_decreasing(sizes: np.ndarray, length: int) -> Layout:
    """Whole documents, the longest first, each in the first row that has room for it; no document is longer than a row."""
    room = np.full(len(sizes), length, dtype=np.int64)
    pieces, num_rows, full = [], 0, 0
    smallest = int(sizes.min()) if len(sizes) else 0
    for document in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[document])
        # no later document is smaller than the smallest: rows that have no room for it are passed over for good
        while full < num_rows and room[full] < smallest:
            full += 1
        row = full + int(np.argmax(room[full : num_rows + 1] >= size))
        num_rows = max(num_rows, row + 1)
        pieces.append((row, length - int(room[row]), document, 0, size))
        room[row] -= size
    return _sorted(pieces, num_rows, 0)


def _with_longest(
    whole: list[tuple[int, int, int]], rests: list[tuple[int, int, int]], gap: int
) -> list[tuple[int, int, int]] | None:
    """The list that holds the longest piece of at most `gap` tokens; the rests' where both do, None where none does."""
    found, longest = None, 0
    for pool in (rests, whole):
        at = bisect_left(pool, (gap + 1,)) - 1
        if at >= 0 and pool[at][0] > longest:
            found, longest = pool, pool[at][0]
    return found


def _sorted(pieces: list[tuple[int, int, int, int, int]], num_rows: int, lead: int) -> Layout:
    columns = np.array(pieces, dtype=np.int64).reshape(-1, 5)
    columns = columns[np.lexsort((columns[:, 1], columns[:, 0]))]
    row, position, document, offset, size = np.ascontiguousarray(columns.T)
    return Layout(row, position, document, offset, size, num_rows, lead)


def gather(tokens: np.ndarray, begins: np.ndarray, layout: Layout, lead_token: int = 0) -> np.ndarray:
    """Tokens of all rows, one after the other.

    Args:
        tokens: of all documents.
        begins: where each document begins in `tokens`, [D].
        lead_token: what goes before a piece that continues a document.
    """
    leads = layout.leads()
    sizes = layout.size + leads
    ends = np.cumsum(sizes)
    source = begins[layout.document] + layout.offset - leads - (ends - sizes)
    gathered = tokens[np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(source, sizes)]
    gathered[(ends - sizes)[leads > 0]] = lead_token
    return gathered


def row_starts(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(position at which each piece begins in its row [P], row bounds in them [R + 1]), int32."""
    bounds = np.searchsorted(layout.row, np.arange(layout.num_rows + 1))
    return layout.position.astype(np.int32), bounds.astype(np.int32)


def shares(sizes: np.ndarray, layout: Layout, length: int) -> dict[str, int]:
    """Counts that add up over shards: pieces, cut_documents, cut_tokens (of documents in more than one piece), pad_tokens."""
    times = np.bincount(layout.document, minlength=len(sizes))
    cut = times > 1
    return {
        "pieces": len(layout.row),
        "cut_documents": int(cut.sum()),
        "cut_tokens": int(sizes[cut].sum()),
        "pad_tokens": int(layout.num_rows * length - layout.row_sizes().sum()),
    }
