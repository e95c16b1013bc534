"""The `arrow` source: Arrow IPC files and streams, one document per row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.data.records import Rejected, schema
from raylm.data.sources.columns import documents_of, parts_of, scalars
from raylm.data.sources.row_source import RowSource
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, rows_of, sliced

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = b"ARROW1"
# a stream has no index: its batches are found by reading from the start
_WHOLE = -1


class Arrow(RowSource):
    """Arrow IPC, as files (with an index at the end) or as streams (which `datasets` writes)."""

    kind: Literal["arrow"] = "arrow"
    glob: str
    """Path, folder, glob (`data/**/*.arrow`) or URI of the files."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A row whose text (or record) is longer than this is dropped and counted as row_too_long."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """A work unit is closed as soon as its record batches, taken as equal parts of their file, hold this much."""

    def units(self) -> list[Unit]:
        """Ranges of record batches, whole streams. Raises DataError when no file matches."""
        size: dict[Span, int] = {}
        for span in matched(self.glob):
            count = _num_batches(span.path)
            parts = [span._replace(start=_WHOLE)] if count is None else list(sliced(span._replace(end=count), 1))
            size.update(dict.fromkeys(parts, max(span.end // len(parts), 1)))
        return grouped(size, self.split_bytes, size=size.__getitem__)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is a row number within the file."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables."""
        import pyarrow as pa

        for span in _joined(unit.spans):
            at = 0
            try:
                with _mapped(span.path) as file:
                    for at, batch in _batches(file, span):
                        names = scalars(batch.schema, self.text_column, self.columns)
                        wanted = batch if names is None else batch.select(names)
                        for start, part in parts_of(wanted):
                            numbers = range(at + start, at + start + len(part))
                            yield documents_of(part, self.text_column, span.source, numbers, self.max_row_bytes, self.columns)
            except (OSError, pa.ArrowException):
                yield schema().empty_table(), [Rejected("unreadable_file", f"{span.source}:{at}")]


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbouring ranges of one file as one: the batches before a range have to be counted."""
    held: Span | None = None
    for span in spans:
        if held and held.path == span.path and held.end == span.start:
            held = held._replace(end=span.end)
        else:
            if held:
                yield held
            held = span
    if held:
        yield held


def _batches(file: Any, span: Span) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, record batch) of the span."""
    import pyarrow as pa

    at = 0
    if span.start == _WHOLE:
        for batch in pa.ipc.open_stream(file):
            yield at, batch
            at += len(batch)
        return
    # of the batches before the span one column is enough to count their rows; of a map no more than their heads is read
    with contextlib.ExitStack() as held:
        rest = file if "://" in span.path else held.enter_context(pa.memory_map(span.path))
        counting = pa.ipc.open_file(rest, options=pa.ipc.IpcReadOptions(included_fields=[0]))
        at = sum(counting.get_batch(number).num_rows for number in range(span.start))
    reader = pa.ipc.open_file(file)
    for number in range(span.start, min(span.end, reader.num_record_batches)):
        batch = reader.get_batch(number)
        yield at, batch
        at += len(batch)


def _num_batches(path: str) -> int | None:
    """Record batches of a file; None for a stream, and for what cannot be read, which reading then says."""
    import pyarrow as pa

    try:
        with _mapped(path) as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            return pa.ipc.open_file(file).num_record_batches
    except (OSError, pa.ArrowException):
        return None


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[Any]:
    import pyarrow as pa

    if "://" in path:
        with opened(path) as raw, pa.PythonFile(raw, mode="r") as file:
            yield file
    else:
        with pa.OSFile(path) as file:
            yield file
