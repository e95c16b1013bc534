"""Connected components: the smallest row number that each row is connected with, from pairs of rows.

edges --> large star --> [settled?] -- no --> small star --> (again)
                              '------ yes --> stars: every row beside the smallest of its component

Large star and small star in turn (Kiveris et al. 2014, https://doi.org/10.1145/2670979.2670997), each a shuffle by node,
with a union-find over what one task holds before it sends. Labels are smallest rows, so any partitioning ends alike.
Memory of a task: the edges of its nodes; the edges of one node are never split.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numba import njit

from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.dedup.exact import part_of
from raylm.prepare.dedup.fuzzy.words import mixed

if TYPE_CHECKING:
    from raylm.prepare.corpus import Corpus

Pairs = tuple[np.ndarray, np.ndarray]
# O(log^2 n) rounds are proven, some five are usual; as many as this mean that something is broken
_MAX_ROUNDS = 64


@njit(nogil=True, cache=True)
def _root(parents, node):
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(nogil=True, cache=True)
def _union(parents, left, right):
    for at in range(len(left)):
        one, other = _root(parents, left[at]), _root(parents, right[at])
        # the smaller one stays root: it is the smallest of its component at the end
        if one < other:
            parents[other] = one
        else:
            parents[one] = other
    for node in range(len(parents)):
        parents[node] = _root(parents, node)


def contract(left: np.ndarray, right: np.ndarray) -> Pairs:
    """(int64[M] rows, int64[M] smallest row of each one's component), sorted by row, without the smallest themselves."""
    nodes, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    parents = np.arange(len(nodes))
    _union(parents, places[: len(left)], places[len(left) :])
    moved = np.flatnonzero(parents != np.arange(len(nodes)))
    return nodes[moved], nodes[parents[moved]]


def large_star(node: np.ndarray, other: np.ndarray) -> tuple[Pairs, int]:
    """One large-star step over all edges of some nodes: larger neighbours go to the smallest.

    Args:
        node, other: int64[E], every edge of these nodes seen from each of them, in any order, repeated or not.

    Returns:
        The edges made, and how many nodes are not settled yet: in a star a node has one smaller neighbour, or larger ones.
    """
    if not len(node):
        return (node, other), 0
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    fresh = np.append(True, (node[1:] != node[:-1]) | (other[1:] != other[:-1]))
    node, other = node[fresh], other[fresh]
    starts = np.flatnonzero(np.append(True, node[1:] != node[:-1]))
    counts = np.diff(np.append(starts, len(node)))
    smaller = np.add.reduceat((other < node).astype(np.int64), starts)
    unsettled = (smaller > 1) | ((smaller == 1) & (counts > 1))
    least = np.repeat(np.minimum(other[starts], node[starts]), counts)
    sent = other > node
    return (other[sent], least[sent]), int(unsettled.sum())


@njit(nogil=True, cache=True)
def _spread(rows):
    hashes = np.empty(len(rows), np.uint64)
    for at in range(len(rows)):
        hashes[at] = mixed(np.uint64(rows[at]))
    return hashes


def owner(rows: np.ndarray, parts: int) -> np.ndarray:
    """The partition of each row (int64, of either sign); neighbouring rows lie apart."""
    return part_of(_spread(rows), parts)


def send(folder: Folder, name: str, task: int, pairs: Pairs, parts: int, both: bool) -> None:
    """Scatter edges (larger, smaller) by their larger node, or `both`: seen from either of them."""
    larger, smaller = pairs
    node = np.concatenate([larger, smaller]) if both else larger
    other = np.concatenate([smaller, larger]) if both else smaller
    scatter(folder, name, task, pa.table({"node": node, "other": other}), owner(node, parts), parts)


def settle(corpus: Corpus, sent: int, parts: int, **facts: Any) -> tuple[str, int]:
    """Rounds until nothing changes, over the edges that `sent` tasks scattered under the name `large-0`.

    Returns:
        Name and number of tasks of the edges that are stars, scattered by both nodes.

    Raises:
        DataError: it does not settle.
    """
    if parts == 1:
        # all edges meet in one task, and `contract` is all there is to do
        return "large-0", sent
    for at in range(_MAX_ROUNDS):
        work = partial(_large, corpus.scratch, at, sent, parts)
        marks = corpus.over_parts(f"large-{at}", parts, work, (f"small-{at}",), sent=sent, **facts)
        if not any(mark["unsettled"] for mark in marks):
            return f"large-{at}", sent
        work = partial(_small, corpus.scratch, at, parts)
        corpus.over_parts(f"small-{at}", parts, work, (f"large-{at + 1}",), sent=sent, **facts)
        sent = parts
    raise DataError(
        f"connected components have not settled after {_MAX_ROUNDS} rounds",
        where=corpus.scratch.uri,
        next="remove this folder and run again; if it comes back, report it with the corpus",
    )


def _large(scratch: Folder, at: int, sent: int, parts: int, task: int, plain: Plain) -> Plain:
    edges = gather_all(scratch, f"large-{at}", sent, plain["part"])
    new_edges, unsettled = large_star(edges["node"].to_numpy(), edges["other"].to_numpy())
    send(scratch, f"small-{at}", task, contract(*new_edges), parts, both=False)
    return {"unsettled": unsettled}


def _small(scratch: Folder, at: int, parts: int, task: int, plain: Plain) -> Plain:
    """All edges that end in a larger node meet here. Its union-find joins what a small star would, and more."""
    edges = gather_all(scratch, f"small-{at}", parts, plain["part"])
    new_edges = contract(edges["node"].to_numpy(), edges["other"].to_numpy())
    send(scratch, f"large-{at + 1}", task, new_edges, parts, both=True)
    return {}


def groups_of(node: np.ndarray, other: np.ndarray, part: int, parts: int, cap: int) -> dict[str, Any]:
    """Groups of rows to compare with each other: components, the large ones cut in row order.

    Args:
        node, other: int64[E], edges that are stars; all edges of the centres that `part` owns.
        cap: most rows of a group.

    Returns:
        row, group: int64[M] sorted by group and row; a group is named by its first row. Rows that a cut leaves alone
        are in none. clusters, largest, over_cap: of whole components; clustered: rows in them.
    """
    rows, roots = contract(node, other)
    own = owner(roots, parts) == part
    rows, roots = rows[own], roots[own]
    centres = np.unique(roots)
    rows, roots = np.concatenate([centres, rows]), np.concatenate([centres, roots])
    order = np.lexsort((rows, roots))
    rows, roots = rows[order], roots[order]
    starts = np.searchsorted(roots, centres)
    sizes = np.diff(np.append(starts, len(rows)))
    place = np.arange(len(rows)) - np.repeat(starts, sizes)
    heads = np.flatnonzero(place % cap == 0)
    lengths = np.diff(np.append(heads, len(rows)))
    group = np.repeat(rows[heads], lengths)
    paired = np.repeat(lengths, lengths) > 1
    return {
        "row": rows[paired],
        "group": group[paired],
        "clusters": len(centres),
        "clustered": len(rows),
        "largest": int(sizes.max(initial=0)),
        "over_cap": int((sizes > cap).sum()),
    }
