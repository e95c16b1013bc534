"""Takes raw files, leaves Documents: read, filtered, and without duplicates if asked.

source.units() -> read + filter (one shard each, marked) -> [dedup: hashes of all -> shards rewritten] -> manifest
"""

from __future__ import annotations

import io
import json
from collections import Counter
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import Documents
from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain, run_marked
from raylm.data.records import COLUMNS, Rejected, schema
from raylm.data.shards import read_parquet, shard_name, write_parquet
from raylm.data.sources.units import unit_of
from raylm.prepare.config import Prepare

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BATCH_ROWS = 1000
_EXAMPLES = 3
_SHOWN_CHARS = 500


def run(cfg: Prepare, ctx: Context) -> Documents:
    """Make the Documents.

    Facts: rows, bytes (of text), columns, sources (how many), dropped {reason: count}, dropped_examples {reason: places}.

    Raises:
        DataError: no file matches, or no row is left.
    """
    units = [unit.plain() for unit in resolve(cfg.source).units()]
    # with dedup what is read is not final yet
    target = ctx.work / "read" if cfg.dedup else ctx.out
    marks = run_marked(ctx, "read", units, partial(_read, cfg, target), cfg.workers)
    counts = _add(marks)
    if cfg.dedup and counts["rows"]:
        before, marks = counts, _without_duplicates(cfg, ctx, marks)
        counts = _add(marks)
        counts["rows_in"] = before["rows_in"]
        counts["dropped"] = dict(Counter(before["dropped"]) + Counter(counts["dropped"]))
        counts["examples"] = before["examples"] | counts["examples"]
    if not counts["rows"]:
        raise _nothing_left(counts)
    rows = {mark["shard"]: mark["rows"] for mark in marks if mark["rows"]}
    _remove_strangers(ctx.out, set(rows) | {mark["rejected"] for mark in marks})
    ctx.out.write_json("sources.json", counts["sources"])
    facts = {
        "rows": counts["rows"],
        "bytes": counts["bytes"],
        "columns": list(COLUMNS),
        "sources": len(counts["sources"]),
        "dropped": counts["dropped"],
        "dropped_examples": counts["examples"],
    }
    metrics = {key: counts[key] for key in ("rows_in", "rows", "bytes")} | {"dropped": sum(counts["dropped"].values())}
    return ctx.commit(Documents, facts=facts, metrics=metrics, rows=rows)


def _read(cfg: Prepare, target: Folder, at: int, plain: Plain) -> Plain:
    """One unit to one shard; runs in a worker."""
    import pyarrow as pa

    filters = [resolve(card) for card in cfg.filters]
    kept: list[pa.Table] = []
    rejected: list[Rejected | dict[str, Any]] = []
    rows_in = 0
    stream = iter(resolve(cfg.source).read(unit_of(plain)))
    while batch := list(islice(stream, _BATCH_ROWS)):
        rows_in += len(batch)
        rejected += [row for row in batch if isinstance(row, Rejected)]
        table = pa.Table.from_pylist([row for row in batch if not isinstance(row, Rejected)], schema=schema())
        for card in filters:
            table = _filtered(table, card, rejected)
        kept.append(table)
    table = pa.concat_tables(kept) if kept else schema().empty_table()
    return _written(cfg, target, at, table, rejected) | {"rows_in": rows_in}


def _filtered(table: pa.Table, card: Any, rejected: list[Any]) -> pa.Table:
    if not table.num_rows:
        return table
    keep, reasons = card.judge(table)
    rejected += [{"reason": reasons[row], **table.slice(row, 1).to_pylist()[0]} for row in (~keep).nonzero()[0]]
    return _masked(table, keep)


def _written(cfg: Prepare, target: Folder, at: int, table: pa.Table, rejected: list[Any]) -> Plain:
    """Shard, hashes and rejected rows on file; leaves what the mark says of them."""
    shard, lost = shard_name("documents", at, "parquet"), shard_name("rejected", at, "jsonl")
    if table.num_rows:
        write_parquet(target, shard, table)
        if cfg.dedup:
            _save(target, f"keys-{at:05d}.npy", cfg.dedup.keys(table))
    lines = [_rejected_line(row) for row in rejected]
    if cfg.keep_rejected and lines:
        target.write(lost, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    examples: dict[str, list[str]] = {}
    for line in lines:
        if len(held := examples.setdefault(line["reason"], [])) < _EXAMPLES:
            held.append(line["where"])
    return {
        "shard": shard,
        "rejected": lost,
        "rows": table.num_rows,
        "rows_in": 0,
        "bytes": sum(len(text.encode()) for text in table["text"].to_pylist()),
        "digest": target.digest(shard) if table.num_rows else "",
        "dropped": dict(Counter(line["reason"] for line in lines)),
        "examples": examples,
        "sources": dict(Counter(table["source"].to_pylist())),
        "columns": sorted({name for row in rejected if isinstance(row, Rejected) for name in row.columns}),
    }


def _rejected_line(row: Rejected | dict[str, Any]) -> dict[str, Any]:
    if isinstance(row, Rejected):
        return {"reason": row.reason, "where": row.where}
    where = f"{row['source']}:{row['start']}"
    return {"reason": row["reason"], "where": where, "id": row["id"], "text": row["text"][:_SHOWN_CHARS]}


def _without_duplicates(cfg: Prepare, ctx: Context, marks: list[Plain]) -> list[Plain]:
    """The second pass: which rows stay is decided here, over all shards at once; workers then write the final shards."""
    assert cfg.dedup is not None
    read, full = ctx.work / "read", [at for at, mark in enumerate(marks) if mark["rows"]]
    masks = cfg.dedup.keep([_load(read, f"keys-{at:05d}.npy") for at in full])
    for at, mask in zip(full, masks, strict=True):
        _save(read, f"keep-{at:05d}.npy", mask)
    kept = dict(zip(full, (int(mask.sum()) for mask in masks), strict=True))
    # the shard's digest and the count of rows tie a mark to what was read: other content is written anew
    units = [{"digest": mark["digest"], "kept": kept.get(at, 0), "rejected": mark["rejected"]} for at, mark in enumerate(marks)]
    return run_marked(ctx, "dedup", units, partial(_rewrite, cfg, ctx.out, read), cfg.workers, "shards")


def _rewrite(cfg: Prepare, out: Folder, read: Folder, at: int, plain: Plain) -> Plain:
    """One shard less its duplicates; runs in a worker."""
    table, rejected = schema().empty_table(), []
    if plain["digest"]:
        table, mask = read_parquet(read, shard_name("documents", at, "parquet")), _load(read, f"keep-{at:05d}.npy")
        rejected = [{"reason": "duplicate", **row} for row in _masked(table, ~mask).to_pylist()]
        table = _masked(table, mask)
    made = _written(cfg.model_copy(update={"dedup": None}), out, at, table, rejected)
    if cfg.keep_rejected and read.exists(plain["rejected"]):
        before = read.read(plain["rejected"])
        out.write(plain["rejected"], before + (out.read(plain["rejected"]) if rejected else b""))
    return made


def _masked(table: pa.Table, mask: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return table.filter(pa.array(mask))


def _add(marks: list[Plain]) -> dict[str, Any]:
    """Sums over all marks; of examples the first few, in unit order."""
    total: dict[str, Any] = {"rows": 0, "rows_in": 0, "bytes": 0}
    for key in total:
        total[key] = sum(mark[key] for mark in marks)
    dropped, sources, examples = Counter[str](), Counter[str](), {}
    for mark in marks:
        dropped.update(mark["dropped"])
        sources.update(mark["sources"])
        for reason, places in mark["examples"].items():
            examples[reason] = (examples.get(reason, []) + places)[:_EXAMPLES]
    columns = sorted({name for mark in marks for name in mark["columns"]})
    return total | {
        "dropped": dict(sorted(dropped.items())),
        "sources": dict(sorted(sources.items())),
        "examples": examples,
        "columns": columns,
    }


def _nothing_left(counts: dict[str, Any]) -> DataError:
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items()) or "the files are empty"
    places = "; ".join(f"{reason} at {places[0]}" for reason, places in counts["examples"].items())
    columns = f"; the rows have the columns {', '.join(counts['columns'])}" if counts["columns"] else ""
    remedy = "set text_column to a column that exists" if columns else "look at the places named, or loosen the filters"
    return DataError(f"no row is left of {counts['rows_in']}: {reasons}{columns}", where=places or None, next=remedy)


def _remove_strangers(out: Folder, ours: set[str]) -> None:
    """Shards of an earlier attempt on other input files do not belong to this artifact."""
    for name in out.files():
        if name.startswith(("documents-", "rejected-")) and name not in ours:
            out.remove(name)


def _save(folder: Folder, name: str, array: np.ndarray) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array)
    folder.write(name, buffer.getvalue())


def _load(folder: Folder, name: str) -> np.ndarray:
    import numpy as np

    return np.load(io.BytesIO(folder.read(name)))
