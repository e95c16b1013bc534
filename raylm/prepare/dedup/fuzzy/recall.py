"""Recall of near-duplicate removal, measured on a sample of documents that is compared all with all.

The sample is drawn by content: a document is in it when a hash of its smallest shingle is below a limit, so that near
duplicates are in it together with the probability of their similarity, and independently of the bands.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.corpus import DECISIONS, View, gather_groups
from raylm.prepare.dedup.fuzzy.verify import jaccard
from raylm.prepare.dedup.fuzzy.words import Shingling

# recall is measured over pairs at least this similar
SIMILAR = 0.8
# in a list of documents that share a shingle each is compared with so many before it: the pairs stay bounded
_BEFORE = 32


def write_sample(
    shingling: Shingling, sample: int, view: View, scratch: Folder, at: int, table: pa.Table, draws: np.ndarray
) -> None:
    """One shard's documents of a sample of about `sample` over all shards, as sets of shingles."""
    limit = min(sample / max(view.num_rows, 1), 1.0) * 2.0**64
    drawn = table.filter(pa.array(draws.astype(np.float64) < limit))
    ends, values = shingling.sets(drawn["text"])
    sets = pa.LargeListArray.from_arrays(ends, pa.array(values))
    rows = pa.table({"row": drawn["row"], "set": sets})
    scatter(scratch, "sample", at, rows, np.zeros(drawn.num_rows, np.int64), 1)


@njit(nogil=True, cache=True)
def _candidates(shingles, places, before):
    """Pairs of places that share a shingle, as place * 2^32 + place; shingles are sorted, then places."""
    found = np.empty(len(shingles) * before, np.int64)
    count, start = 0, 0
    for at in range(len(shingles)):
        if shingles[at] != shingles[start]:
            start = at
        for other in range(max(start, at - before), at):
            found[count] = places[other] << 32 | places[at]
            count += 1
    return found[:count]


@njit(nogil=True, cache=True)
def _scores(pairs, ends, values):
    similarities = np.empty(len(pairs))
    for at in range(len(pairs)):
        one, other = pairs[at] >> 32, pairs[at] & 0xFFFFFFFF
        similarities[at] = jaccard(values, ends[one], ends[one + 1], ends[other], ends[other + 1], -1.0)
    return similarities


def similar_pairs(ends: np.ndarray, values: np.ndarray, least: float, before: int = _BEFORE) -> tuple[np.ndarray, np.ndarray]:
    """(int64[P, 2] pairs of places, float64[P] similarity) of sorted sets that are at least so similar.

    Two sets of similarity s share one of their smallest (1 - s) |A| + 1 values, so only those are looked up (prefix filter,
    Chaudhuri et al. 2006). Complete as long as no more than `before` sets share such a value.
    """
    sizes = np.diff(ends)
    taken = np.minimum(np.floor((1 - least) * sizes + 1e-9).astype(np.int64) + 1, sizes)
    places = np.repeat(np.arange(len(sizes)), taken)
    within = np.arange(len(places)) - np.repeat(np.cumsum(taken) - taken, taken)
    shingles = values[ends[places] + within]
    order = np.lexsort((places, shingles))
    pairs = np.unique(_candidates(shingles[order], places[order], before))
    scores = _scores(pairs, ends, values)
    alike = scores >= least
    return np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)[alike], scores[alike]


def measure(view: View, scratch: Folder, parts: int, task: int, plain: Plain) -> Plain:
    """Similar pairs of the sample, and how many of them lost a document. Pairs within an earlier corpus do not count."""
    table = gather_all(scratch, "sample", len(view.shards), 0)
    row = table["row"].to_numpy()
    sets = pa.concat_arrays(table["set"].chunks)
    lost = [decisions["row"].to_numpy() for decisions in gather_groups(scratch, DECISIONS, parts, view.own)]
    gone = np.isin(row, np.concatenate(lost)) if lost else np.zeros(len(row), bool)
    pairs, _ = similar_pairs(sets.offsets.to_numpy(), sets.values.to_numpy(), SIMILAR)
    pairs = pairs[(row[pairs] >= 0).any(axis=1)]
    return {"documents": len(row), "pairs": len(pairs), "found": int(gone[pairs].any(axis=1).sum())}
