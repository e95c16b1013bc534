"""The first pass of a prepare stage, run in workers: reads a work unit, applies every step in order, writes shards.

source -> table -> step -> step -> ... -> shards of the unit;   dropped rows are counted with their reason
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from raylm.core.config import resolve
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.records import Rejected, as_text, record_json
from raylm.data.shards import write_parquet
from raylm.data.sources.units import batches_of, unit_of
from raylm.prepare.config import Prepare, steps_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EXAMPLES = 3
_SHOWN_CHARS = 300
_SHOWN_COLUMNS = 50
# a shard is closed at this much, texts, records, metadata and scores together: what a later pass holds in memory, however
# large the file it came from and however short its documents
_SHARD_BYTES = 128 << 20
_LINES_BYTES = 32 << 20
# keys of messages whose values are roles and types, not text to clean
_TAGS = frozenset({"role", "from", "type"})
# reasons for which a row that was read well is no document; any other reason means that it could not be read
_USUAL = frozenset({"empty", "row_too_long", "http_status", "not_html", "no_main_text"})
_SCORES = "add the score card that makes it before this filter"


class Losses:
    """Dropped rows: counted by source and reason, the first few kept as examples, all of them written on request.

    Args:
        folder: where they are written, as `{name}-000.jsonl` and so on, a JSON line each; None writes nothing.
    """

    def __init__(self, folder: Folder | None, name: str) -> None:
        self._folder, self._name, self._held_bytes = folder, name, 0
        self.files: list[str] = []
        self.by_source: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.columns: set[str] = set()
        self.unread = Counter[str]()
        self.lines: list[str] = []

    def unreadable(self, row: Rejected) -> None:
        """A raw row that never became a document."""
        source = row.where.rpartition(":")[0] or row.where
        # bounded: rows that each have keys of their own would fill the mark
        if len(self.columns) < _SHOWN_COLUMNS:
            self.columns.update(row.columns[:_SHOWN_COLUMNS])
        self.unread[source] += row.reason not in _USUAL
        self._add(source, row.reason, {"where": row.where})

    def add(self, table: pa.Table, reasons: list[str], step: Any = None) -> None:
        """Documents that a step dropped; one reason per row. A step that can `explain` adds what it saw."""
        more = step.explain(table) if hasattr(step, "explain") else [{}] * table.num_rows
        self.add_explained(table, reasons, more)

    def add_explained(self, table: pa.Table, reasons: list[str], more: list[dict[str, Any]]) -> None:
        """`add`, with more facts of each row than place, id and the beginning of its text."""
        rows = table.select(["id", "source", "start", "text"]).to_pylist()
        for row, reason, besides in zip(rows, reasons, more, strict=True):
            example = {"where": f"{row['source']}:{row['start']}", "id": row["id"], "text": row["text"][:_SHOWN_CHARS]}
            self._add(row["source"], reason, example | besides)

    def plain(self) -> Plain:
        """As JSON values for a mark."""
        return {
            "dropped": {source: dict(sorted(counts.items())) for source, counts in sorted(self.by_source.items())},
            "examples": dict(sorted(self.examples.items())),
            "columns": sorted(self.columns),
            "unread": {source: count for source, count in sorted(self.unread.items()) if count},
            "rejected": self.files,
        }

    def close(self) -> None:
        """Write what is held."""
        if self._folder and self.lines:
            self.files.append(f"{self._name}-{len(self.files):03d}.jsonl")
            self._folder.write(self.files[-1], "\n".join([*self.lines, ""]))
        self.lines, self._held_bytes = [], 0

    def _add(self, source: str, reason: str, example: dict[str, Any]) -> None:
        self.by_source.setdefault(source, Counter())[reason] += 1
        if len(held := self.examples.setdefault(reason, [])) < EXAMPLES:
            held.append(example)
        if self._folder:
            self.lines.append(json.dumps({"reason": reason, **example}, ensure_ascii=False))
            self._held_bytes += len(self.lines[-1])
            # one unit may be a file of any size, and nearly all of it may be dropped
            if self._held_bytes >= _LINES_BYTES:
                self.close()


def read_unit(cfg: Prepare, target: Folder, at: int, plain: Plain) -> Plain:
    """Write one unit's shards to `target`; returns its mark."""
    card: Any = resolve(cfg.sources()[plain["source"]])
    steps, clock, cleaned = steps_of(cfg), defaultdict[str, float](float), {}
    losses, writer = Losses(target if cfg.keep_rejected else None, f"rejected-{at:06d}"), Shards(target, at)
    stream = batches_of(card, unit_of(plain))
    rows_in, since = 0, time.perf_counter()
    for table, rejected in stream:
        rows_in += table.num_rows + len(rejected)
        for row in rejected:
            losses.unreadable(row)
        clock["read"] += time.perf_counter() - since
        for step in steps:
            since = time.perf_counter()
            table = take_step(step, table, losses, cleaned)
            clock[step.kind] += time.perf_counter() - since
        since = time.perf_counter()
        writer.add(table)
        clock["write"] += time.perf_counter() - since
        since = time.perf_counter()
    writer.close()
    losses.close()
    return {
        "rows_in": rows_in,
        "shards": writer.done,
        "cleaned": {kind: dict(counts) for kind, counts in cleaned.items()},
        "seconds": {name: round(spent, 4) for name, spent in clock.items()},
        **losses.plain(),
    }


def take_step(step: Any, table: pa.Table, losses: Losses, cleaned: dict[str, Counter[str]]) -> pa.Table:
    """Apply one card to one table; the method it has (`clean`, `score`, `judge`) says what kind of step it is."""
    import pyarrow as pa

    if not table.num_rows:
        return table
    if hasattr(step, "clean"):
        return _clean(step, table, losses, cleaned.setdefault(step.kind, Counter()))
    if hasattr(step, "score"):
        for name, values in step.score(table).items():
            column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
            at = table.column_names.index(name) if name in table.column_names else None
            table = table.append_column(name, column) if at is None else table.set_column(at, name, column)
        return table
    if missing := [name for name in getattr(step, "reads", ()) if name not in table.column_names and "." not in name]:
        raise DataError(f"{step.kind} reads the column {missing[0]!r}, which the documents do not have", next=_SCORES)
    if hasattr(step, "counts"):
        # rows that a filter could not check are counted too
        cleaned.setdefault(step.kind, Counter()).update(step.counts(table))
    keep, reasons = step.judge(table)
    if keep.all():
        return table
    gone = table.filter(pa.array(~keep))
    losses.add(gone, [reasons[row] for row in (~keep).nonzero()[0]], step)
    return table.filter(pa.array(keep))


def _clean(step: Any, table: pa.Table, losses: Losses, counts: Counter[str]) -> pa.Table:
    """Clean the texts of plain rows; of structured rows every string, and rebuild the text from them."""
    import pyarrow as pa

    texts, records = table["text"].to_pylist(), table["record"].to_pylist()
    result = step.clean(texts)
    counts.update(result.counts)
    cleaned = list(result.texts)
    lost = [""] * len(texts)
    for at, record in enumerate(records):
        if record is None:
            lost[at] = "" if cleaned[at].strip() else f"empty_after_{step.kind}"
            continue
        row = _strings(json.loads(record), step)
        try:
            records[at], cleaned[at] = record_json(row), as_text(row)
            lost[at] = "" if cleaned[at].strip() else f"empty_after_{step.kind}"
        except DataError:
            # for example, the prompt that chosen and rejected shared is gone
            lost[at] = f"broken_by_{step.kind}"
    for name, values in (("text", cleaned), ("record", records)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.large_string()))
    if any(lost):
        losses.add(table.filter(pa.array([reason != "" for reason in lost])), [reason for reason in lost if reason])
        table = table.filter(pa.array([not reason for reason in lost]))
    return table


def _strings(value: Any, step: Any) -> Any:
    if isinstance(value, str):
        return step.clean([value]).texts[0]
    if isinstance(value, list):
        return [_strings(inner, step) for inner in value]
    if isinstance(value, dict):
        return {key: inner if key in _TAGS else _strings(inner, step) for key, inner in value.items()}
    return value


class Shards:
    """Documents of one unit, written in shards of bounded size: `documents-000012-00000.parquet`."""

    def __init__(self, folder: Folder, unit: int) -> None:
        self.done: list[Plain] = []
        self._folder, self._unit, self._held, self._bytes = folder, unit, [], 0

    def add(self, table: pa.Table) -> None:
        """Add a table; a shard is written when enough rows are buffered."""
        if table.num_rows:
            self._held.append(table)
            self._bytes += table.nbytes
        if self._bytes >= _SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        import pyarrow as pa

        if not self._held:
            return
        table = pa.concat_tables(self._held, promote_options="default")
        name = f"documents-{self._unit:06d}-{len(self.done):05d}.parquet"
        self.done.append(write_shard(self._folder, name, table))
        self._held, self._bytes = [], 0


def write_shard(folder: Folder, name: str, table: pa.Table) -> Plain:
    """Write one shard; returns its facts for the mark."""
    import numpy as np

    write_parquet(folder, name, table)
    lengths = _lengths(table)
    return {
        "name": name,
        "rows": table.num_rows,
        "bytes": int(lengths.sum()),
        "digest": folder.digest(name),
        "columns": table.column_names,
        "sources": _counted(table["source"]),
        # number of documents of 2^k to 2^(k+1) - 1 bytes
        "lengths": {str(k): int(n) for k, n in enumerate(np.bincount(np.log2(np.maximum(lengths, 1)).astype(int))) if n},
    }


def _lengths(table: pa.Table) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.call_function("binary_length", [table["text"]]).to_numpy()


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.value_counts()
    return dict(sorted((item["values"].as_py(), item["counts"].as_py()) for item in counts))
