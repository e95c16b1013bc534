"""Counts of pre-tokens over the train split of Documents: 64-bit, exact, in bounded memory.

documents shard -> WordTable, spilled by hash partition (marked) -> partition: add up over shards (marked) -> most frequent
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.artifact import Documents
from raylm.core.config import WorkerSpec, digest_of
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain, run_marked
from raylm.data.records import is_held_out
from raylm.data.shards import map_arrow, shard_name, write_arrow
from raylm.data.shuffle import gather, scatter
from raylm.tokenize.trainers.pattern import Pattern
from raylm.tokenize.trainers.table import WordTable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# distinct pre-tokens that a task holds before it spills: about 500 MB
MOST_IN_TASK = 4 << 20
# bytes of Documents for each partition: some million distinct pre-tokens
_PART_BYTES = 512 << 20
# folder of the work in progress, in `ctx.work`
COUNTS = "counts"
_RUNS = "words"
# rows of a partition that wait to be added up
_WAITING = 1 << 20


class Counted(NamedTuple):
    """Distinct pre-tokens, most frequent first, equals by their bytes: the same for any shards, tasks and partitions.

    words: large_binary[N]; counts: uint64[N]; num_words: distinct ones in the corpus, `num_words - N` rare ones are left
    out; num_tokens, num_bytes: what was counted, text and pre-tokens, with those left out.
    """

    words: pa.Array
    counts: pa.Array
    num_words: int
    num_tokens: int
    num_bytes: int

    def facts(self) -> dict[str, int]:
        """What the manifest says of them."""
        kept = len(self.words)
        return {
            "num_pretokens": self.num_tokens,
            "num_distinct_pretokens": self.num_words,
            "rare_pretokens_left_out": self.num_words - kept,
            "trained_on_bytes": self.num_bytes,
        }


def count_words(
    ctx: Context,
    documents: Documents,
    pattern: Pattern,
    *,
    held_out: float,
    workers: WorkerSpec,
    max_words: int,
    sample_bytes: int | None = None,
    most: int = MOST_IN_TASK,
) -> Counted:
    """Count over all shards; work that is done is marked in `ctx.work` and not done again.

    Args:
        held_out: share of documents that is not looked at (`is_held_out`).
        max_words: most frequent distinct pre-tokens that are kept.
        sample_bytes: text that is looked at, an equal part from the beginning of every shard; None for all.
        most: distinct pre-tokens that a task holds in memory.

    Raises:
        DataError: there is no train text.
    """
    shards = documents.shards("documents-")
    share = None if sample_bytes is None else -(-sample_bytes // max(len(shards), 1))
    parts = 1 + sum(entry.bytes for entry in shards) // _PART_BYTES
    plain = {"pattern": [*pattern], "held_out": held_out, "share": share, "parts": parts, "most": most}
    units = [{"path": entry.path, "digest": entry.digest, **plain} for entry in shards]
    folder = ctx.work / COUNTS
    work = partial(_count, documents.folder, folder, pattern)
    marks = run_marked(ctx, "count", units, work, workers, "shards")
    runs = [[at, mark["runs"]] for at, mark in enumerate(marks)]
    # a partition keeps max_words of its own, and so all that are among the most frequent of the whole
    runs_digest = digest_of([runs, units])
    merged = [{"part": part, "runs": runs_digest, "max_words": max_words} for part in range(parts)]
    added = run_marked(ctx, "add", merged, partial(_add, folder, runs), workers, "partitions")
    top = None
    for part, mark in enumerate(added):
        if mark["rows"]:
            table = map_arrow(folder.local(shard_name("added", part, "arrow")))
            top = most_frequent(table if top is None else _concat([top, table]), max_words)
    if top is None:
        raise DataError("no text to train a tokenizer on: the train split is empty", where=documents.uri)
    sums = [sum(mark[name] for mark in marks) for name in ("tokens", "bytes")]
    columns = (top["word"].combine_chunks(), top["count"].combine_chunks())
    return Counted(*columns, sum(mark["words"] for mark in added), *sums)


def count_texts(texts: list[str], pattern: Pattern, most: int = MOST_IN_TASK) -> Counted:
    """The same from texts in memory."""
    import pyarrow as pa

    found: list[pa.Table] = []
    table = WordTable(pattern, most, lambda hashes, words, counts: found.append(_table(words, counts)))
    table.add(pa.array(texts, pa.large_string()))
    table.flush()
    added = most_frequent(add_up(_concat(found)), 1 << 62) if found else _table(pa.array([], pa.large_binary()), [])
    columns = (added["word"].combine_chunks(), added["count"].combine_chunks())
    return Counted(*columns, added.num_rows, table.num_tokens, table.num_bytes)


def add_up(table: pa.Table) -> pa.Table:
    """One row for each distinct word, its counts added as uint64."""
    added = table.group_by("word", use_threads=False).aggregate([("count", "sum")])
    return added.rename_columns({"count_sum": "count"}).select(["word", "count"])


def most_frequent(table: pa.Table, most: int) -> pa.Table:
    """Rows by count, largest first, and then by word; `most` of them at most."""
    return table.sort_by([("count", "descending"), ("word", "ascending")]).slice(0, most)


def _count(source: Folder, out: Folder, pattern: Pattern, at: int, plain: Plain) -> Plain:
    """Count one shard; runs in a worker."""
    runs = 0

    def spill(hashes: np.ndarray, words: pa.Array, counts: np.ndarray) -> None:
        nonlocal runs
        import numpy as np

        # by the high bits of the hash: the same word is in the same partition everywhere
        part = ((hashes >> np.uint64(32)) * np.uint64(plain["parts"])) >> np.uint64(32)
        scatter(out, f"{_RUNS}-{at:05d}", runs, _table(words, counts), part.astype(np.int64), plain["parts"])
        runs += 1

    table = WordTable(pattern, plain["most"], spill)
    for texts in _train_texts(source, plain["path"], plain["held_out"], plain["share"]):
        table.add(texts)
    table.flush()
    return {"runs": runs, "tokens": table.num_tokens, "bytes": table.num_bytes}


def _add(folder: Folder, runs: list[list[int]], part: int, plain: Plain) -> Plain:
    """Add up one partition; runs in a worker. In memory are the sum so far and as many rows again, or a few runs."""
    tables: list[pa.Table] = []
    waiting = 0
    for at, count in runs:
        for run in range(count):
            tables.append(gather(folder, f"{_RUNS}-{at:05d}", [run], part))
            waiting += tables[-1].num_rows
            # when as much waits as there is: each row is added up a few times, however many runs there are
            if waiting > max(_WAITING, tables[0].num_rows):
                tables, waiting = [add_up(_concat(tables))], 0
    if not tables:
        return {"rows": 0, "words": 0}
    added = add_up(_concat(tables))
    top = most_frequent(added, plain["max_words"])
    write_arrow(folder, shard_name("added", part, "arrow"), top)
    return {"rows": top.num_rows, "words": added.num_rows}


def _train_texts(source: Folder, path: str, held_out: float, share: int | None) -> Any:
    """Train-side texts of a shard, one Arrow array per row group; the first `share` bytes of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    left = share
    with pq.ParquetFile(source.local(path)) as file:
        for batch in file.iter_batches(batch_size=10_000, columns=["id", "text"]):
            train = pa.array([not is_held_out(id, held_out) for id in batch["id"].to_pylist()], pa.bool_())
            texts = batch["text"].filter(train).cast(pa.large_string()).drop_null()
            if left is not None:
                ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
                # the text that passes the share is counted whole
                texts = texts[: int(np.searchsorted(ends[1:] - ends[0], left)) + 1]
                left -= int(ends[len(texts)] - ends[0])
            yield texts
            if left is not None and left <= 0:
                return


def _table(words: pa.Array, counts: Any) -> pa.Table:
    import pyarrow as pa

    return pa.table({"word": words, "count": pa.array(counts, pa.uint64())})


def _concat(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables)
