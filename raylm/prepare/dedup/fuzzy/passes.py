"""The passes of MinHash, task by task: each reads shards and the files of the pass before, and writes files for the next.

shards -- sign --> keys -- edges --> pairs of rows -- components --> groups -- send --> sets -- verify --> decisions

All of it runs in workers; a task may die and run again, and writes the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.corpus import View, decide, drops, gather_shard, scatter_by_shard
from raylm.prepare.dedup.exact import part_of
from raylm.prepare.dedup.fuzzy.components import contract, groups_of, owner, send
from raylm.prepare.dedup.fuzzy.recall import write_sample
from raylm.prepare.dedup.fuzzy.signatures import band_keys
from raylm.prepare.dedup.fuzzy.verify import judge
from raylm.prepare.dedup.fuzzy.words import Shingling

BINS = 20
# clusters that are shown, and documents of each
EXAMPLES, _SHOWN = 20, 10


def sign(
    shingling: Shingling, bands: int, rows: int, sample: int, view: View, scratch: Folder, parts: int, at: int, plain: Plain
) -> Plain:
    """One shard: (key, row) of each band of each document, partitioned by range of the key; and its documents of the sample."""
    table = view.table(at, ("id", "text"))
    signed = band_keys(table["text"], shingling.ngram, bands, rows, shingling.fold)
    row = table["row"].to_numpy()
    there = signed.sizes > 0
    keys = signed.keys[there].ravel()
    pairs = pa.table({"key": keys, "row": np.repeat(row[there], bands)})
    # 16-bit numbers are sorted by radix, which is ten times as fast
    scatter(scratch, "keys", at, pairs, part_of(keys, parts).astype(np.uint16 if parts < 1 << 16 else np.int64), parts)
    if sample:
        write_sample(shingling, sample, view, scratch, at, table, signed.draws)
    return {"documents": len(row), "shingles": int(signed.sizes.sum())}


def edges(scratch: Folder, shards: int, parts: int, task: int, plain: Plain) -> Plain:
    """One range of keys: edges from every row of a key to the smallest one, reduced to those that connect them."""
    table = gather_all(scratch, "keys", shards, plain["part"])
    key, row = table["key"].to_numpy(), table["row"].to_numpy()
    order = np.argsort(key)
    key, row = key[order], row[order]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, np.int64)
    counts = np.diff(np.append(starts, len(key)))
    first = np.repeat(np.minimum.reduceat(row, starts), counts) if len(key) else row
    linked = row != first
    links = contract(row[linked], first[linked])
    send(scratch, "large-0", task, links, parts, both=True)
    return {"edges": len(links[0])}


def groups(max_cluster: int, view: View, scratch: Folder, stars: tuple[str, int], parts: int, task: int, plain: Plain) -> Plain:
    """One partition of nodes: its components as groups, partitioned by shard."""
    name, tasks = stars
    table = gather_all(scratch, name, tasks, plain["part"])
    result = groups_of(table["node"].to_numpy(), table["other"].to_numpy(), plain["part"], parts, max_cluster)
    row, group = result.pop("row"), result.pop("group")
    scatter_by_shard(scratch, "groups", task, pa.table({"row": row, "group": group}), view.shards)
    return {**result, "grouped": len(row)}


def send_sets(shingling: Shingling | None, view: View, scratch: Folder, tasks: int, parts: int, at: int, plain: Plain) -> Plain:
    """One shard: the documents that are in groups, as sets of shingles (None: not compared, no sets), partitioned by group."""
    members = gather_shard(scratch, "groups", tasks, view.shards, at)
    row, group = members["row"].to_numpy(), members["group"].to_numpy()
    order = np.argsort(row)
    row, group = row[order], group[order]
    columns = ("id", "text") if shingling else ("id",)
    table = view.table(at, columns) if len(row) else pa.table({"row": row, "id": pa.array([], pa.string())})
    table = table.take(pa.array(np.searchsorted(table["row"].to_numpy(), row)))
    ends, values = np.zeros(len(row) + 1, np.int64), np.zeros(0, np.uint64)
    if shingling and len(row):
        ends, values = shingling.sets(table["text"])
    sets = pa.LargeListArray.from_arrays(ends, pa.array(values))
    rows = pa.table({"row": row, "group": group, "id": table["id"], "set": sets})
    scatter(scratch, "sets", at, rows, owner(group, parts), parts)
    return {}


def verify(similarity: float | None, max_keepers: int, view: View, scratch: Folder, task: int, plain: Plain) -> Plain:
    """One partition of groups: which documents are dropped, and because of which; without a similarity all but the first."""
    table = gather_all(scratch, "sets", len(view.shards), plain["part"])
    row, group = table["row"].to_numpy(), table["group"].to_numpy()
    order = np.lexsort((row, group))
    row, group = row[order], group[order]
    table = table.take(pa.array(order)).combine_chunks()
    if similarity is not None:
        sets = _flat(table["set"])
        nearest, scores, gone = judge(sets.offsets.to_numpy(), sets.values.to_numpy(), group, row, similarity, max_keepers)
        compared = scores[nearest >= 0]
    else:
        heads = np.append(True, group[1:] != group[:-1]) if len(row) else np.zeros(0, bool)
        nearest = np.flatnonzero(heads)[np.cumsum(heads) - 1] if len(row) else row
        gone, compared, scores = ~heads & (row >= 0), np.zeros(0), None
    because = _flat(table["id"].take(pa.array(np.where(gone, nearest, 0)))) if len(row) else _flat(table["id"])
    lost = drops(row[gone], "near_duplicate", because.filter(pa.array(gone)), None if scores is None else scores[gone])
    decide(view, scratch, task, lost)
    kept = (row != group) & ~gone & (row >= 0)
    return {
        "dropped": int(gone.sum()),
        "kept": int(kept.sum()),
        "similarities": np.histogram(compared, BINS, (0.0, 1.0))[0].tolist(),
        "examples": _examples(group, gone, table["id"].to_pylist(), because.to_pylist(), scores),
    }


def _flat(column: pa.ChunkedArray) -> Any:
    """A column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


def _examples(group: np.ndarray, gone: np.ndarray, ids: list[str], because: list[str], scores: np.ndarray | None) -> list[Plain]:
    """The first groups that lose a document; each row as (id, id of the kept one it is like or null, similarity or null)."""
    shown = []
    for first in np.unique(group[gone])[:EXAMPLES].tolist():
        start, end = np.searchsorted(group, [first, first + 1])
        rows = [
            [ids[at], because[at] if gone[at] else None, round(float(scores[at]), 3) if gone[at] and scores is not None else None]
            for at in range(start, min(end, start + _SHOWN))
        ]
        shown.append({"first": first, "size": int(end - start), "documents": rows})
    return shown
