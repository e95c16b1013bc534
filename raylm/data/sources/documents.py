"""Takes Documents that an earlier stage made, leaves them as they are, scores and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from raylm.core.config import Config, DocumentsRef
from raylm.data.records import COLUMNS, Rejected, schema
from raylm.data.sources.columns import batch_rows
from raylm.data.sources.parquet import parquet_file
from raylm.data.sources.units import Span, Unit, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from raylm.core.artifact import Artifact


class Documents(Config):
    """Documents of earlier stages: to filter once more by scores that are there, or to bring corpora together."""

    kind: Literal["documents"] = "documents"
    documents: DocumentsRef | list[DocumentsRef]
    """Stage, or URI, of the documents; of a list, in this order. Of several only those scores are kept that all have."""

    def units_of(self, artifacts: list[Artifact]) -> list[Unit]:
        """One unit per shard of the opened artifacts, in order."""
        shards = [(artifact, entry) for artifact in artifacts for entry in artifact.shards("documents-")]
        shared: list[str] | None = None
        for artifact, entry in shards:
            with parquet_file(artifact.folder.path(entry.path)) as file:
                names = file.schema_arrow.names
            shared = names if shared is None else [name for name in shared if name in names]
        scores = tuple(name for name in shared or () if name not in COLUMNS)
        return [
            Unit((Span(artifact.folder.path(entry.path), f"{artifact.uri}/{entry.path}", 0, entry.rows or 0),), None, scores)
            for artifact, entry in shards
        ]

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit, with their scores; id, source and range are those of the raw row."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit, columns: list[str] | None = None) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables.

        Args:
            columns: read these alone; None reads all of them. A re-tuned threshold needs no text.
        """
        import pyarrow as pa

        for span in unit.spans:
            with parquet_file(span.path) as file:
                have = file.schema_arrow.names
                wanted = [name for name in (*COLUMNS, *unit.columns) if columns is None or name in columns]
                meta = file.metadata
                size = batch_rows(meta.num_rows, sum(meta.row_group(at).total_byte_size for at in range(meta.num_row_groups)))
                there = [name for name in wanted if name in have]
                for batch in file.iter_batches(size, columns=there, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    arrays = {name: table[name] if name in have else pa.nulls(len(table)) for name in wanted}
                    yield pa.table({name: _typed(name, array) for name, array in arrays.items()}), []


def _typed(name: str, array: Any) -> Any:
    """A Documents column as the schema has it (documents of an earlier version have no `meta`), a score as it is."""
    return array.cast(schema().field(name).type) if name in COLUMNS else array
