"""Exact top-k over all shards: keeps the rows that rank first, up to a quota.

shards --> [key, weight, group of each row] --> sums by the key's highest digits --> ... by its last --> cut --> [decide]

The driver sees sums and never rows; equal keys are ordered by row number, which does not depend on the sharding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather, scatter
from raylm.prepare.corpus import Corpus, Swept, View, decide, decisions_schema, drops

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# bits of each digit of a 32-bit key: three passes, and no more sums in a mark than there are rows or 2^11 per group
_DIGITS = (11, 11, 10)
# what a decision holds at most: row, offsets, reason
_ROW_BYTES = 64
_SHOWN_GROUPS = 50


class Ranks(NamedTuple):
    """Ranks of rows. `keys` uint32[N], the smallest first; `weights` int64[N]; `groups` a name per row, or None for a single
    group; `missing` bool[N], rows that cannot be ranked, or None."""

    keys: np.ndarray
    weights: np.ndarray
    groups: pa.Array | None = None
    missing: np.ndarray | None = None


class Threshold(NamedTuple):
    """Where a group's ranking ends: smaller keys stay, and of equal ones as much weight as `ties` allows each shard."""

    key: int
    ties: dict[int, int]


def keep_first(corpus: Corpus, rank: Callable[[pa.Table], Ranks], columns: tuple[str, ...], quota: Callable[[int], int]) -> Swept:
    """Keep each group's first rows while their weights fit the quota. Reasons: not_selected, no_score.

    Args:
        columns: what `rank` reads.
        quota: (weight of all rows of a group) -> weight that may stay.
    """
    marks = rank_rows(corpus, rank, columns)
    weights = _summed(marks)
    wanted = {group: [quota(sum(sums.values()))] for group, sums in weights.items()}
    thresholds = {group: ends[0] for group, ends in thresholds_at(corpus, marks, wanted).items()}
    done = by_shard(corpus, partial(_judge, corpus.scratch, thresholds))
    facts: dict[str, Any] = {name: sum(mark[name] for mark in done) for name in ("documents", "kept", "no_score")}
    kept = Counter[str]()
    for mark in done:
        kept.update(mark["groups"])
    if set(weights) != {""}:
        shown = sorted(weights, key=lambda group: -sum(weights[group].values()))[:_SHOWN_GROUPS]
        facts["groups"] = {group: {"all": sum(weights[group].values()), "kept": kept[group]} for group in shown}
    return Swept(num_tasks(corpus), facts)


def rank_rows(corpus: Corpus, rank: Callable[[pa.Table], Ranks], columns: tuple[str, ...]) -> list[Plain]:
    """Rank all rows; returns the marks, with sums of weights by group and highest digit."""
    work = partial(_rank, rank, corpus.view, corpus.scratch, columns)
    return corpus.over_shards("ranks", corpus.view, work)


def thresholds_at(corpus: Corpus, marks: list[Plain], wanted: dict[str, list[int]]) -> dict[str, list[Threshold | None]]:
    """The keys at which groups reach each wanted weight, from the marks of `rank_rows`; None where a group weighs less."""
    places = [(group, at, 0, weight) for group, weights in wanted.items() for at, weight in enumerate(weights)]
    thresholds: dict[str, list[Threshold | None]] = {group: [None] * len(weights) for group, weights in wanted.items()}
    done = 0
    for number, width in enumerate(_DIGITS):
        if number and places:
            prefixes = sorted({(group, prefix) for group, _, prefix, _ in places})
            work = partial(_digits, corpus.scratch, done, width, prefixes)
            marks = corpus.over_shards(f"digits-{number}", corpus.view, work, prefixes=digest_of(prefixes))
        sums = _summed(marks)
        places = [narrowed for place in places if (narrowed := _narrowed(place, sums[place[0]], width))]
        done += width
    for group, at, key, left in places:
        thresholds[group][at] = Threshold(key, _ties(marks, group, key, left))
    return thresholds


def by_shard(corpus: Corpus, judge: Callable[[View, int], tuple[pa.Table, Plain]]) -> list[Plain]:
    """Decide shard by shard, many shards to a task; returns the counts that `judge` gives beside its decisions."""
    tasks = num_tasks(corpus)
    marks = corpus.over_parts("decide", tasks, partial(_decide, corpus.view, corpus.scratch, judge))
    # `said` in marks of an earlier version
    return [counts for mark in marks for counts in mark["counts" if "counts" in mark else "said"]]


def num_tasks(corpus: Corpus) -> int:
    """How many tasks `by_shard` decides in."""
    return min(corpus.parts(_ROW_BYTES), len(corpus.view.shards))


def column_of(table: pa.Table, name: str, kind: str) -> pa.ChunkedArray:
    """A score column. Raises DataError where the documents do not have it, or it holds no numbers."""
    import pyarrow as pa

    if name not in table.column_names:
        raise DataError(
            f"{kind} reads the column {name!r}, which the documents do not have", next="add the score card that makes it"
        )
    column = table[name]
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise DataError(f"{kind} needs numbers, the column {name!r} holds {column.type}", next="name a score column")
    return column


def sortable(values: np.ndarray) -> np.ndarray:
    """uint32[N] in the order of the values, which are taken as float32 (no NaN); `value_of` is the inverse."""
    import numpy as np

    # + 0.0: minus zero is zero
    bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def value_of(key: int) -> float:
    """The float32 that `sortable` made this key of."""
    import numpy as np

    bits = key & 0x7FFFFFFF if key >> 31 else key ^ 0xFFFFFFFF
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])


def _rank(
    rank: Callable[[pa.Table], Ranks], view: View, scratch: Folder, columns: tuple[str, ...], at: int, plain: Plain
) -> Plain:
    """One shard's ranks to a file, and their first sums; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    table = view.table(at, dict.fromkeys(("id", *columns)))
    ranks = rank(table)
    missing = np.zeros(table.num_rows, dtype=bool) if ranks.missing is None else ranks.missing
    groups = pa.repeat(pa.scalar(""), table.num_rows) if ranks.groups is None else ranks.groups.cast(pa.string())
    rows = pa.table(
        {"row": table["row"], "key": ranks.keys, "weight": ranks.weights, "missing": pa.array(missing), "group": groups}
    )
    scatter(scratch, "ranks", at, rows, np.zeros(rows.num_rows, dtype=np.int64), 1)
    return {"bins": _bins(rows, 0, _DIGITS[0], None)}


def _digits(scratch: Folder, done: int, width: int, prefixes: list[tuple[str, int]], at: int, plain: Plain) -> Plain:
    """One shard's sums by the next digit, of the keys with these prefixes; runs in a worker."""
    return {"bins": _bins(gather(scratch, "ranks", [at], 0), done, width, prefixes)}


def _bins(rows: pa.Table, done: int, width: int, prefixes: list[tuple[str, int]] | None) -> dict[str, dict[str, int]]:
    """{group: {the first done + width bits of the key: sum of weights}}."""
    import numpy as np
    import pyarrow.compute as pc

    rows = rows.filter(pc.call_function("invert", [rows["missing"]]))
    names, codes = _coded(rows["group"])
    taken = done + width
    heads = (codes.astype(np.uint64) << np.uint64(taken)) | (rows["key"].to_numpy() >> np.uint32(32 - taken))
    weights = rows["weight"].to_numpy()
    if prefixes is not None:
        number = {name: code for code, name in enumerate(names)}
        wanted = np.array([(number[name] << done) | prefix for name, prefix in prefixes if name in number], dtype=np.uint64)
        there = np.isin(heads >> np.uint64(width), wanted)
        heads, weights = heads[there], weights[there]
    found, inverse = np.unique(heads, return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, inverse, weights)
    bins: dict[str, dict[str, int]] = {}
    for head, total in zip(found.tolist(), sums.tolist(), strict=True):
        bins.setdefault(names[head >> taken], {})[str(head & ((1 << taken) - 1))] = total
    return bins


def _coded(groups: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Names, and the number of each row's name."""
    coded = groups.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()


def _summed(marks: list[Plain]) -> dict[str, Counter[int]]:
    sums: dict[str, Counter[int]] = {}
    for mark in marks:
        for group, bins in mark["bins"].items():
            held = sums.setdefault(group, Counter())
            for head, total in bins.items():
                held[int(head)] += total
    return sums


def _narrowed(place: tuple[str, int, int, int], sums: Counter[int], width: int) -> tuple[str, int, int, int] | None:
    """The place one digit further: the bin in which the weight is passed, and what is left for it."""
    group, at, prefix, left = place
    for head in sorted(head for head in sums if head >> width == prefix):
        if sums[head] > left:
            return group, at, head, left
        left -= sums[head]
    return None


def _ties(marks: list[Plain], group: str, key: int, left: int) -> dict[int, int]:
    """How much weight of the rows with just this key may stay in each shard, in the order of rows."""
    ties: dict[int, int] = {}
    for at, mark in enumerate(marks):
        if found := mark["bins"].get(group, {}).get(str(key)):
            ties[at] = min(found, left)
            # one row that does not fit ends the line: a smaller one behind it does not slip through
            left = left - found if found <= left else -1
    return ties


def _judge(scratch: Folder, thresholds: dict[str, Threshold | None], view: View, at: int) -> tuple[pa.Table, Plain]:
    """Which rows of one shard are dropped; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    rows = gather(scratch, "ranks", [at], 0)
    names, codes = _coded(rows["group"])
    row, keys, weights = (rows[name].to_numpy() for name in ("row", "key", "weight"))
    missing = rows["missing"].to_numpy(zero_copy_only=False)
    by_code = [thresholds.get(name) for name in names]
    # past every key where all of a group stays
    ends = np.array([1 << 32 if threshold is None else threshold.key for threshold in by_code], dtype=np.int64)[codes]
    keep = (keys < ends) & ~missing
    ties = np.flatnonzero((keys == ends) & ~missing)
    for code in np.unique(codes[ties]).tolist():
        here, threshold = ties[codes[ties] == code], by_code[code]
        if threshold is not None:
            keep[here[np.cumsum(weights[here]) <= threshold.ties.get(at, -1)]] = True
    sums = np.zeros(len(names), dtype=np.int64)
    np.add.at(sums, codes[keep], weights[keep])
    counts = {
        "documents": len(row),
        "kept": int(keep.sum()),
        "no_score": int(missing.sum()),
        "groups": dict(zip(names, sums.tolist(), strict=True)),
    }
    gone = [drops(row[missing], "no_score"), drops(row[~keep & ~missing], "not_selected")]
    return pa.concat_tables(gone), counts


def _decide(view: View, scratch: Folder, judge: Callable[[View, int], tuple[pa.Table, Plain]], task: int, plain: Plain) -> Plain:
    """Decisions for a run of shards; runs in a worker."""
    import pyarrow as pa

    first, end = (len(view.shards) * at // plain["of"] for at in (task, task + 1))
    judged = [judge(view, at) for at in range(first, end)]
    decide(view, scratch, task, pa.concat_tables([decisions_schema().empty_table(), *(gone for gone, _ in judged)]))
    return {"counts": [counts for _, counts in judged]}
