"""The `parquet` source: Parquet files, one document per row."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.data.records import Rejected, schema
from raylm.data.sources.columns import batch_rows, documents_of, parts_of, scalars
from raylm.data.sources.row_source import RowSource
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_UNREADABLE = -1
_REMOTE_FOOTERS = 32
"""Footers behind a URI that are read at the same time."""


class Parquet(RowSource):
    """Parquet files, read one row group at a time."""

    kind: Literal["parquet"] = "parquet"
    glob: str
    """Path, folder, glob (`data/**/*.parquet`) or URI of the files."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A row whose text (or record) is longer than this is dropped and counted as row_too_long."""
    split_rows: int = Field(default=50_000, gt=0)
    """A work unit is closed as soon as its row groups hold this many rows."""

    def units(self) -> list[Unit]:
        """Ranges of row groups; `start` and `end` count groups. Raises DataError when no file matches."""
        rows: dict[Span, int] = {}
        spans = matched(self.glob)
        # each footer behind a URI is an answer to wait for, and little else
        with ThreadPoolExecutor(_REMOTE_FOOTERS if "://" in self.glob else 1) as pool:
            for groups in pool.map(_row_groups, spans):
                rows.update(groups)
        return grouped(rows, self.split_rows, size=rows.__getitem__)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is a row number within the file."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables."""
        import pyarrow as pa

        for span in unit.spans:
            if span.start == _UNREADABLE:
                yield schema().empty_table(), [Rejected("unreadable_file", f"{span.source}:0")]
                continue
            at = 0
            try:
                with parquet_file(span.path) as file:
                    groups = [file.metadata.row_group(group) for group in range(span.end)]
                    at = sum(group.num_rows for group in groups[: span.start])
                    size = min(batch_rows(group.num_rows, group.total_byte_size) for group in groups[span.start :])
                    for batch in file.iter_batches(
                        size,
                        row_groups=list(range(span.start, span.end)),
                        columns=scalars(file.schema_arrow, self.text_column, self.columns),
                        use_threads=False,
                    ):
                        for _, part in parts_of(batch):
                            numbers = range(at, at + len(part))
                            yield documents_of(part, self.text_column, span.source, numbers, self.max_row_bytes, self.columns)
                            at += len(part)
            except (OSError, pa.ArrowException):
                yield schema().empty_table(), [Rejected("unreadable_file", f"{span.source}:{at}")]


@contextmanager
def parquet_file(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, on a disk or behind a URI; pages are read as they are needed, never a row group at once."""
    import pyarrow.parquet as pq

    if "://" in path:
        with opened(path) as raw, pq.ParquetFile(raw) as file:
            yield file
    else:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield file


def _row_groups(span: Span) -> list[tuple[Span, int]]:
    """One span per row group with its rows; one marked span for a file whose footer cannot be read."""
    import pyarrow as pa

    try:
        with parquet_file(span.path) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    except (OSError, pa.ArrowException):
        return [(span._replace(start=_UNREADABLE, end=span.end), 1)]
    return [(span._replace(start=group, end=group + 1), count) for group, count in enumerate(counts)]
