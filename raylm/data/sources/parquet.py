"""Takes Parquet files, leaves one document per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, read_row
from raylm.data.sources.units import Span, Unit, grouped, matched, opened

_UNREADABLE = -1


class Parquet(Config):
    """Parquet files, read one row group at a time."""

    kind: Literal["parquet"] = "parquet"
    glob: str
    """Path, folder, glob (`data/**/*.parquet`) or URI of the files."""
    text_column: str | None = None
    """Column that is the text. Without it a row in one of TRL's shapes is kept whole, and of any other row `text`."""
    split_rows: int = Field(default=50_000, gt=0)
    """A work unit is closed as soon as its row groups hold this many rows."""

    def units(self) -> list[Unit]:
        """Ranges of row groups; `start` and `end` count groups. Raises DataError when no file matches."""
        rows: dict[Span, int] = {}
        for span in matched(self.glob):
            rows.update(_row_groups(span))
        return grouped(rows, self.split_rows, size=rows.__getitem__)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is a row number within the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for span in unit.spans:
            if span.start == _UNREADABLE:
                yield Rejected("unreadable_file", span.source)
                continue
            try:
                with opened(span.path) as raw, pq.ParquetFile(raw) as file:
                    names = file.schema_arrow.names
                    wanted = [self.text_column] if self.text_column in names else None
                    at = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
                    for batch in file.iter_batches(1000, row_groups=range(span.start, span.end), columns=wanted):
                        for row in batch.to_pylist():
                            yield read_row(row, self.text_column, span.source, at, at + 1)
                            at += 1
            except (OSError, pa.ArrowException):
                yield Rejected("unreadable_file", span.source)


def _row_groups(span: Span) -> Iterator[tuple[Span, int]]:
    """One span per row group with its rows; one marked span for a file whose footer cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with opened(span.path) as raw, pq.ParquetFile(raw) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    except (OSError, pa.ArrowException):
        yield span._replace(start=_UNREADABLE, end=span.end), 1
        return
    for group, count in enumerate(counts):
        yield span._replace(start=group, end=group + 1), count
