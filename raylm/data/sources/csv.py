"""The `csv` source: CSV files, plain or compressed, one document per row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.data.records import Rejected, schema
from raylm.data.sources.columns import documents_of
from raylm.data.sources.packed import Unpacked, is_packed
from raylm.data.sources.row_source import RowSource
from raylm.data.sources.units import BATCH_ROWS, Span, Unit, grouped, matched, opened, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

# Arrow parses a block at a time, and a block must hold a row
_MIN_BLOCK = 1 << 20


class Csv(RowSource):
    """Files whose first row names the columns; values may hold newlines in quotes. Every value is read as a string."""

    kind: Literal["csv"] = "csv"
    glob: str
    """Path, folder, glob (`data/**/*.csv.gz`) or URI of the files."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between two values; a tab is `"\\t"`."""
    quote: str = Field(default='"', min_length=1, max_length=1)
    """What stands around a value that holds delimiters or newlines; twice inside, it is itself."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A longer text is dropped and counted as row_too_long. A row of more bytes than this (or 1 MB), as an unclosed quote
    makes one, ends its file: unreadable_file is counted, rows before it stay."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Small files are read together until a work unit holds this much. A file is never cut: only reading it from the
    start tells whether a newline is inside quotes."""

    def units(self) -> list[Unit]:
        """Whole files. Raises DataError when no file matches."""
        return grouped(matched(self.glob), self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is a row number, the row below the header is 0, empty lines do not count."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables. A row with more or fewer values than the header is counted as wrong_number_of_values."""
        import pyarrow as pa

        for span in unit.spans:
            at = [0]
            try:
                yield from self._file(span, at)
            except (OSError, pa.ArrowException, csv.Error):
                yield schema().empty_table(), [Rejected("unreadable_file", f"{span.source}:{at[0]}")]

    def _file(self, span: Span, at: list[int]) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """`at[0]` is kept at the number of the next row, for the error that names where a file broke."""
        names = self._header(span.path)
        if not names:
            return
        wrong: dict[int, None] = {}
        with _unpacked(span.path) as file:
            for block in self._blocks(file, names, wrong):
                for start in range(0, len(block), BATCH_ROWS):
                    batch, numbers, lost = block.slice(start, BATCH_ROWS), [], []
                    while len(numbers) < len(batch):
                        if at[0] in wrong:
                            lost.append(_wrong(span, at[0], names))
                            del wrong[at[0]]
                        else:
                            numbers.append(at[0])
                        at[0] += 1
                    table, rejected = documents_of(
                        batch, self.text_column, span.source, numbers, self.max_row_bytes, self.columns
                    )
                    yield table, lost + rejected
            if wrong:
                yield schema().empty_table(), [_wrong(span, number, names) for number in wrong]
            if isinstance(file, io.BufferedReader) and isinstance(file.raw, Unpacked) and file.raw.broken:
                yield schema().empty_table(), [Rejected("unreadable_file", f"{span.source}:{at[0]}")]

    def _header(self, path: str) -> list[str]:
        with _unpacked(path) as file:
            lines = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
            found = next(csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote), [])
            lines.detach()
        return found

    def _blocks(self, file: IO[bytes], names: list[str], wrong: dict[int, None]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyarrow import csv as arrow

        def note(row: Any) -> str:
            # Arrow counts the header as row 1
            wrong[row.number - 2] = None
            return "skip"

        block = min(max(self.max_row_bytes, _MIN_BLOCK), 1 << 30)
        yield from arrow.open_csv(
            file,
            # one thread: only then does Arrow give the number of a wrong row
            arrow.ReadOptions(use_threads=False, block_size=block, column_names=names, skip_rows_after_names=1),
            arrow.ParseOptions(
                delimiter=self.delimiter, quote_char=self.quote, newlines_in_values=True, invalid_row_handler=note
            ),
            arrow.ConvertOptions(check_utf8=False, column_types=dict.fromkeys(names, pa.large_string())),
        )


def _wrong(span: Span, number: int, names: list[str]) -> Rejected:
    return Rejected("wrong_number_of_values", f"{span.source}:{number}", tuple(names))


@contextmanager
def _unpacked(path: str) -> Iterator[IO[bytes]]:
    with opened(path) as file:
        yield io.BufferedReader(Unpacked(file, path), _MIN_BLOCK) if is_packed(path) else file
