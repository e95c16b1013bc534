"""Verification of candidate groups: the exact Jaccard similarity of shingle sets decides which documents are dropped, and because
of which other.

In row order each document is compared with those kept so far. It is dropped when one is similar enough, because of the most
similar; else it is kept and the next ones are compared with it too. So no document is dropped for a neighbour's neighbour.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def jaccard(values, one, one_end, other, other_end, floor):
    """|A and B| / |A or B| of two sorted sets, values[one:one_end] and values[other:other_end].

    Where it cannot exceed `floor` any more the count stops and -1 comes back (a floor of -1 counts to the end); two empty
    sets have 0.
    """
    total = (one_end - one) + (other_end - other)
    if total == 0:
        return 0.0
    # J > floor exactly when more than this many are shared
    needed = floor * total / (1.0 + floor) if floor >= 0 else -1.0
    if min(one_end - one, other_end - other) <= needed:
        return -1.0
    shared = 0
    while one < one_end and other < other_end:
        # in blocks without a branch on the values, then a look whether it can still be enough
        stop = min(64, one_end - one, other_end - other)
        for _ in range(stop):
            left, right = values[one], values[other]
            shared += left == right
            one += left <= right
            other += right <= left
        if shared + min(one_end - one, other_end - other) <= needed:
            return -1.0
    return shared / (total - shared)


@njit(nogil=True, cache=True)
def judge(ends, values, groups, rows, similarity, max_keepers):
    """Which documents are dropped, and the similarity to the most similar kept one.

    Args:
        ends: int64[N + 1], values: uint64[M]: the set of each document, sorted.
        groups, rows: int64[N], sorted by group, then by row; documents of negative rows stay in any case.
        similarity: from which on a document is dropped.
        max_keepers: with how many of the first that stayed in its group a document is compared.

    Returns:
        int64[N] the most similar of those (a place, -1 without one), float64[N] how similar, bool[N] whether it is dropped.
    """
    size = len(groups)
    nearest, scores = np.full(size, -1, np.int64), np.zeros(size)
    gone = np.zeros(size, np.bool_)
    keepers = np.empty(min(size, max_keepers), np.int64)
    count = 0
    for at in range(size):
        if at == 0 or groups[at] != groups[at - 1]:
            count = 0
        if rows[at] >= 0:
            best = -1.0
            for of in range(count):
                keeper = keepers[of]
                score = jaccard(values, ends[at], ends[at + 1], ends[keeper], ends[keeper + 1], best)
                if score > best:
                    best, nearest[at] = score, keeper
            scores[at] = max(best, 0.0)
            gone[at] = count > 0 and best >= similarity
        if not gone[at] and count < max_keepers:
            keepers[count] = at
            count += 1
    return nearest, scores, gone
