"""The corpus of a running prepare stage as sweeps (dedup, select) see it: rows, parallel passes, decisions.

shards --sweep 0--> decisions --sweep 1--> decisions ... --> written once, at the end

A sweep (a card of dedup/ or select/) never rewrites text: it decides, per row, `drop` (with a reason, and because of
which other document) or `cut` (byte ranges of the text). Later sweeps see the rows as the earlier ones left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.artifact import Documents
from raylm.core.config import WorkerSpec, digest_of
from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.data.marks import Plain, run_marked
from raylm.data.shuffle import gather, gather_all, group_size, merge, num_groups, scatter
from raylm.prepare.metadata import with_columns

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DECISIONS = "decisions"
# what a worker holds of a shuffled partition at once, before sorting makes it about three times that
_PART_BYTES = 128 << 20


class Shard(NamedTuple):
    """One file of documents. `first` is the number of its first row; rows of an earlier corpus have negative numbers."""

    folder: Folder
    name: str
    rows: int
    first: int


class Swept(NamedTuple):
    """Result of a sweep. `parts`: how many tasks decided; `facts`: counts and examples for manifest and report."""

    parts: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class View:
    """Shards in order, and the decisions made so far. Travels to workers."""

    shards: tuple[Shard, ...]
    decided: tuple[tuple[Folder, int], ...] = ()
    """Folder and number of deciding tasks, of each sweep so far."""

    def table(self, at: int, columns: Iterable[str] | None = None) -> pa.Table:
        """Rows of shard `at` that are still there, with `row` (int64, the number over all shards), texts cut as decided."""
        import numpy as np
        import pyarrow as pa

        from raylm.data.sources.parquet import parquet_file

        shard = self.shards[at]
        # behind a URI the wanted columns are read remotely: copies of all shards would fill a worker's disk
        with parquet_file(shard.folder.path(shard.name)) as file:
            wanted = None if columns is None else list(columns)
            table = file.read(wanted if wanted is None else _held(wanted, file.schema_arrow.names))
        if wanted is not None and set(wanted) - set(table.column_names):
            table = with_columns(table, wanted)
            table = table.select([name for name in wanted if name in table.column_names])
        table = table.append_column("row", pa.array(np.arange(shard.first, shard.first + shard.rows)))
        for decisions in self.decisions(at):
            table = apply(table, decisions)
        return table

    def decisions(self, at: int) -> list[pa.Table]:
        """What each sweep so far has decided of shard `at`; nothing for the shards of an earlier corpus."""
        own = at - self.num_earlier
        return [gather_shard(folder, DECISIONS, parts, self.own, own) for folder, parts in self.decided] if own >= 0 else []

    @property
    def num_earlier(self) -> int:
        """How many shards, the first ones, belong to an earlier corpus."""
        return sum(shard.first < 0 for shard in self.shards)

    @property
    def own(self) -> tuple[Shard, ...]:
        """The stage's own shards."""
        return self.shards[self.num_earlier :]

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


def _held(wanted: list[str], names: list[str]) -> list[str]:
    """Columns to read: of a dotted name that is none of them the metadata."""
    return list(dict.fromkeys("meta" if "." in name and name not in names else name for name in wanted))


class Corpus:
    """The documents of a stage, and parallel passes over them, for a sweep.

    Args:
        view: the stage's own shards.
        scratch: a folder of this sweep's own, in the stage's work folder.
    """

    def __init__(self, ctx: Context, workers: WorkerSpec, view: View, scratch: Folder, content: str) -> None:
        self.view, self.scratch, self.workers = view, scratch.make(), workers
        self._ctx, self._content, self._passed = ctx, content, ""
        self.decided_by = ""
        """What decides beside the stage's own config, as a sweep's passes have it: the version of its hashes."""

    def joined(self, earlier: list[str]) -> View:
        """The view with the documents of earlier artifacts (references) in front; their row numbers are negative."""
        before = [
            Shard(artifact.folder, entry.path, entry.rows or 0, 0)
            for artifact in (self._ctx.open_as(ref, Documents) for ref in earlier)
            for entry in artifact.shards("documents-")
        ]
        first, placed = -sum(shard.rows for shard in before), []
        for shard in before:
            placed.append(shard._replace(first=first))
            first += shard.rows
        return replace(self.view, shards=(*placed, *self.view.shards))

    def open(self, ref: str) -> Any:
        """The artifact that a reference of the card names."""
        return self._ctx.open(ref)

    def parts(self, row_bytes: float, num_rows: int | None = None, least: int | None = None) -> int:
        """How many partitions keep each of them small: `least` (else one per worker) or more. Decisions must not depend on
        this number."""
        size = row_bytes * (self.view.num_rows if num_rows is None else num_rows)
        return max(self.workers.count if least is None else least, int(-(-size // _PART_BYTES)))

    def map(self, name: str, units: list[Plain], work: Callable[[int, Plain], Plain], unit: str = "shards") -> list[Plain]:
        """One marked pass over `units`: `work(number, unit)` in a worker, its answer in a mark. See `run_marked`."""
        layout = {"merged": group_size(len(self.view.shards))} if group_size(len(self.view.shards)) > 1 else {}
        units = [{**plain, **layout, "content": self._content} for plain in units]
        return run_marked(self._ctx, f"{self.scratch.name}-{name}", units, work, self.workers, unit)

    def over_shards(
        self, name: str, view: View, work: Callable[[int, Plain], Plain], scatters: tuple[str, ...] = (), **facts: Any
    ) -> list[Plain]:
        """`map` over the shards of a view. `scatters`: names under which `work` scatters, for `gather_all` afterwards."""
        done = self.map(name, [{"shard": shard.name, **facts} for shard in view.shards], work)
        self._passed, self.decided_by = digest_of([name, facts]), facts.get("card", self.decided_by)
        for each in scatters:
            self.merge(each, len(view.shards), **facts)
        return done

    def over_parts(
        self, name: str, parts: int, work: Callable[[int, Plain], Plain], scatters: tuple[str, ...] = (), **facts: Any
    ) -> list[Plain]:
        """`map` over the partitions of a shuffle; as above."""
        done = self.map(name, [{"part": at, "of": parts, **facts} for at in range(parts)], work, "partitions")
        self._passed, self.decided_by = digest_of([name, parts, facts]), facts.get("card", self.decided_by)
        for each in scatters:
            self.merge(each, parts, **facts)
        return done

    def settle(self, name: str, tasks: int, shards: tuple[Shard, ...]) -> None:
        """What `tasks` tasks of the pass before left by `scatter_by_shard`, laid by shard for `gather_shard`."""
        self.merge(name, tasks, after=self._passed)
        if group_size(len(shards)) > 1:
            units = [{"group": at, "of": len(shards), "after": self._passed} for at in range(num_groups(len(shards)))]
            self.map(f"settle-{name}", units, partial(_settle, self.scratch, name, tasks, shards), "groups of shards")

    def merge(self, name: str, tasks: int, **facts: Any) -> None:
        """Merge the files that `tasks` tasks scattered, where they are many. `facts`: what decides of what lies in them, such as
        the number of partitions."""
        if group_size(tasks) > 1:
            units = [{"group": at, "tasks": tasks, **facts} for at in range(num_groups(tasks))]
            self.map(f"merge-{name}", units, partial(_merged, self.scratch, name, tasks), "groups of files")


def decide(view: View, scratch: Folder, task: int, decisions: pa.Table) -> None:
    """Write what one task decided, partitioned by shard. Rows of an earlier corpus must not be among them."""
    scatter_by_shard(scratch, DECISIONS, task, decisions, view.own)


def scatter_by_shard(scratch: Folder, name: str, task: int, table: pa.Table, shards: tuple[Shard, ...]) -> None:
    """Scatter rows (int64 `row`) by the shard that they lie in; of many shards by groups of them: a batch for each of 30,000
    would be all footer."""
    scatter(scratch, name, task, table, _shard_of(table, shards) // group_size(len(shards)), num_groups(len(shards)))


def gather_shard(scratch: Folder, name: str, tasks: int, shards: tuple[Shard, ...], at: int) -> pa.Table:
    """The rows of shard `at` that all `tasks` tasks scattered, after `Corpus.settle`."""
    size = group_size(len(shards))
    return gather_all(scratch, name, tasks, at) if size == 1 else gather(scratch, f"{name}-settled", [at // size], at % size)


def gather_groups(scratch: Folder, name: str, tasks: int, shards: tuple[Shard, ...]) -> Iterator[pa.Table]:
    """The same of every group of shards, one after the other; before `Corpus.settle`."""
    for at in range(num_groups(len(shards))):
        yield gather(scratch, name, range(tasks), at)


def _shard_of(table: pa.Table, shards: tuple[Shard, ...]) -> np.ndarray:
    import numpy as np

    return np.searchsorted(np.array([shard.first + shard.rows for shard in shards]), table["row"].to_numpy(), side="right")


def _merged(scratch: Folder, name: str, tasks: int, at: int, plain: Plain) -> Plain:
    """Files of one group of tasks become one; runs in a worker."""
    return {"bytes": merge(scratch, name, at, tasks)}


def _settle(scratch: Folder, name: str, tasks: int, shards: tuple[Shard, ...], at: int, plain: Plain) -> Plain:
    """The rows of one group of shards, by shard; runs in a worker."""
    size = group_size(len(shards))
    here = shards[at * size : (at + 1) * size]
    table = gather_all(scratch, name, tasks, at)
    return {"bytes": scatter(scratch, f"{name}-settled", at, table, _shard_of(table, here), len(here))}


def decisions_schema() -> pa.Schema:
    """Columns of decisions: row; reason; because (id of another document, or null); score (how alike, or null);
    cuts (flat starts and ends, in bytes of the text, which are removed from the document; null: the document is dropped)."""
    import pyarrow as pa

    return pa.schema(
        [
            ("row", pa.int64()),
            ("reason", pa.string()),
            ("because", pa.string()),
            ("score", pa.float32()),
            ("cuts", pa.list_(pa.int64())),
        ]
    )


def drops(row: np.ndarray, reason: str, because: Any = None, score: Any = None) -> pa.Table:
    """Decisions that let whole documents go."""
    import pyarrow as pa

    size = len(row)
    columns = {
        "row": pa.array(row, pa.int64()),
        "reason": pa.repeat(pa.scalar(reason), size),
        "because": pa.nulls(size, pa.string()) if because is None else because,
        "score": pa.nulls(size, pa.float32()) if score is None else pa.array(score, pa.float32()),
        "cuts": pa.nulls(size, pa.list_(pa.int64())),
    }
    return pa.table(columns, schema=decisions_schema())


def apply(table: pa.Table, decisions: pa.Table) -> pa.Table:
    """The rows that decisions leave, their texts cut; each row is named by one decision at most."""
    import numpy as np
    import pyarrow as pa

    if not decisions.num_rows:
        return table
    whole = decisions["cuts"].is_null().to_numpy(zero_copy_only=False)
    gone = decisions["row"].to_numpy()[whole]
    cut = decisions.filter(pa.array(~whole))
    if cut.num_rows and "text" in table.column_names:
        ranges = dict(zip(cut["row"].to_pylist(), cut["cuts"].to_pylist(), strict=True))
        texts = [
            without(text, ranges[row]) if row in ranges else text
            for row, text in zip(table["row"].to_pylist(), table["text"].to_pylist(), strict=True)
        ]
        table = table.set_column(table.column_names.index("text"), "text", pa.array(texts, pa.large_string()))
    return table.filter(pa.array(~np.isin(table["row"].to_numpy(), gone)))


def without(text: str, cuts: list[int]) -> str:
    """A text less byte ranges, given as flat starts and ends in order."""
    data, at, kept = text.encode(), 0, []
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        kept.append(data[at:start])
        at = end
    return b"".join([*kept, data[at:]]).decode()


def content_of(marks: list[Plain]) -> str:
    """Digest of what was read: a pass over other rows is another pass."""
    return digest_of([[shard["name"], shard["digest"]] for mark in marks for shard in mark["shards"]])
