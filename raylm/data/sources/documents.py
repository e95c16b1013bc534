"""The `documents` source: Documents of earlier stages, with their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from raylm.core.config import DocumentsRef
from raylm.core.errors import DataError
from raylm.data.mapping import Columns
from raylm.data.records import COLUMNS, Rejected, read_row, schema
from raylm.data.sources.columns import batch_rows
from raylm.data.sources.parquet import parquet_file
from raylm.data.sources.row_source import MappedSource
from raylm.data.sources.units import Span, Unit, grouped, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from raylm.core.artifact import Artifact


# shards that an earlier stage left small are read together: each unit becomes shards of its own
_UNIT_BYTES = 32 << 20


class Documents(MappedSource):
    """Documents of earlier stages: to filter once more by scores that are there, to bring corpora together, or to map what
    they hold (`columns`: their `text`, the columns their rows were kept with, and their metadata)."""

    kind: Literal["documents"] = "documents"
    documents: DocumentsRef | list[DocumentsRef]
    """Stage, or URI, of the documents; of a list, in this order. Of several only those scores are kept that all have."""

    def units_of(self, artifacts: list[Artifact]) -> list[Unit]:
        """Groups of neighbouring shards of the opened artifacts. Raises DataError where a score is of another type in each."""
        shards = [(artifact, entry) for artifact in artifacts for entry in artifact.shards("documents-")]
        shared: dict[str, Any] = {}
        for at, (artifact, entry) in enumerate(shards):
            with parquet_file(artifact.folder.path(entry.path)) as file:
                types = {field.name: field.type for field in file.schema_arrow if field.name not in COLUMNS}
            shared = types if not at else {name: kind for name, kind in shared.items() if name in types}
            for name, kind in shared.items():
                if types[name] != kind:
                    raise DataError(
                        f"the column {name!r} holds {types[name]} here and {kind} in the documents before",
                        where=artifact.folder.path(entry.path),
                        next="make one of them anew with another name for the column",
                    )
        spans = [
            Span(artifact.folder.path(entry.path), f"{artifact.uri}/{entry.path}", 0, entry.rows or 0)
            for artifact, entry in shards
        ]
        sizes = {span: entry.bytes for span, (_, entry) in zip(spans, shards, strict=True)}
        return [unit._replace(columns=tuple(shared)) for unit in grouped(spans, _UNIT_BYTES, size=sizes.__getitem__)]

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit, with their scores; id, source and range are those of the raw row."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables."""
        import pyarrow as pa

        for span in unit.spans:
            with parquet_file(span.path) as file:
                have = file.schema_arrow.names
                wanted = (*COLUMNS, *unit.columns)
                meta = file.metadata
                size = batch_rows(meta.num_rows, sum(meta.row_group(at).total_byte_size for at in range(meta.num_row_groups)))
                there = [name for name in wanted if name in have]
                for batch in file.iter_batches(size, columns=there, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    arrays = {name: table[name] if name in have else pa.nulls(len(table)) for name in wanted}
                    whole = pa.table({name: _typed(name, array) for name, array in arrays.items()})
                    yield (whole, []) if self.columns is None else _mapped(whole, self.columns)


def _mapped(table: pa.Table, columns: Columns) -> tuple[pa.Table, list[Rejected]]:
    """The documents under the names of `columns`; ids, ranges and scores are theirs."""
    import pyarrow as pa

    rows, kept, lost = [], [], []
    for at, row in enumerate(table.select(COLUMNS).to_pylist()):
        raw = {"text": row["text"], **json.loads(row["meta"] or "{}"), **json.loads(row["record"] or "{}")}
        made = read_row(raw, None, row["source"], row["start"], row["end"], columns)
        if isinstance(made, Rejected):
            lost.append(made)
        else:
            rows.append(made)
            kept.append(at)
    table = table.take(pa.array(kept, pa.int64()))
    for name in ("text", "record", "meta"):
        values = pa.array([row[name] for row in rows], schema().field(name).type)
        table = table.set_column(table.column_names.index(name), name, values)
    return table, lost


def _typed(name: str, array: Any) -> Any:
    """A Documents column as the schema has it (documents of an earlier version have no `meta`), a score as it is."""
    return array.cast(schema().field(name).type) if name in COLUMNS else array
