"""The `jsonl` source: JSON Lines files, plain or compressed, one document per line; of a JSON array one per element."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.data.records import Rejected, is_structured, read_row
from raylm.data.sources.json_values import HEAD_BYTES, is_spread, values_in
from raylm.data.sources.lines import lines_in
from raylm.data.sources.packed import Unpacked, is_packed
from raylm.data.sources.row_source import RowSource
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, sliced

_EXACT = float(1 << 63)


class Jsonl(RowSource):
    """One JSON object a line: `.jsonl`, `.jsonl.gz` or `.jsonl.zst`. A file that begins with `[` is one array, whose elements
    are the rows, and an object may go over several lines: both are read from front to end by one task."""

    kind: Literal["jsonl"] = "jsonl"
    glob: str
    """Path, folder, glob (`data/**/*.jsonl.gz`) or URI of the files."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A line longer than this is dropped and counted as row_too_long; it is never held in memory."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Size of a work unit: larger plain files are cut in byte ranges, smaller ones read together."""

    def units(self) -> list[Unit]:
        """Byte ranges of plain files, whole compressed files. Raises DataError when no file matches."""
        parts = [
            part
            for span in matched(self.glob)
            for part in ([span] if span.end <= self.split_bytes or _is_whole(span) else sliced(span, self.split_bytes))
        ]
        return grouped(parts, self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit. A line belongs to the range in which its first byte lies."""
        for span in unit.spans:
            if span.start == 0 and _is_array(span):
                yield from self._elements(span)
                continue
            for found in lines_in(span, self.max_row_bytes):
                if isinstance(found, Rejected):
                    yield found
                elif not found[1].isspace():
                    yield from self._rows(span.source, *found)

    def _elements(self, span: Span) -> Iterator[dict[str, Any] | Rejected]:
        """Rows of a file that is no JSON Lines."""
        try:
            with opened(span.path) as file:
                stream = Unpacked(file, span.path) if is_packed(span.path) else None
                for start, end, value in values_in(io.BufferedReader(stream) if stream else file, self.max_row_bytes):
                    where = f"{span.source}:{start}"
                    row = Rejected("row_too_long", where) if value is None else self._row(span.source, start, value)
                    yield row if isinstance(row, dict | Rejected) else Rejected("invalid_json", f"{span.source}:{end}")
                if stream and stream.broken:
                    yield Rejected(stream.broken, f"{span.source}:{stream.at}")
        except OSError:
            yield Rejected("unreadable_file", f"{span.source}:{span.start}")

    def _rows(self, source: str, start: int, line: bytes) -> Iterator[dict[str, Any] | Rejected]:
        """The row of a line; several where objects stand on it one after the other."""
        whole = self._row(source, start, line)
        if whole is not None:
            yield whole
            return
        for at, end, value in values_in(io.BytesIO(line), self.max_row_bytes):
            row = self._row(source, start + at, value or b"")
            yield row or Rejected("invalid_json", f"{source}:{start + end}")

    def _row(self, source: str, start: int, line: bytes) -> dict[str, Any] | Rejected | None:
        """One object; None where more follows behind it."""
        import orjson

        try:
            row = orjson.loads(line)
            # it gives integers of more than 64 bits as floats; a structured row is kept whole, to the last digit
            exact = type(row) is dict and not _is_rounded(row)
            if exact and (self.columns.text if self.columns else self.text_column or not is_structured(row)):
                return read_row(row, self.text_column, source, start, start + len(line), self.columns)
        except orjson.JSONDecodeError:
            pass  # a byte order mark, NaN, half a surrogate pair, or an error whose reason is found below
        where = f"{source}:{start}"
        try:
            row = json.loads(line.decode("utf-8-sig" if start == 0 else "utf-8"))
        except UnicodeDecodeError:
            return Rejected("invalid_utf8", where)
        except json.JSONDecodeError as cause:
            return None if cause.msg == "Extra data" and line.lstrip()[:1] == b"{" else Rejected("invalid_json", where)
        except (ValueError, RecursionError):
            return Rejected("invalid_json", where)
        return read_row(row, self.text_column, source, start, start + len(line), self.columns)


def _is_rounded(row: dict[str, Any]) -> bool:
    """Whether a number may have been an integer of more than 64 bits; lists are no metadata."""
    return any(
        abs(value) >= _EXACT if type(value) is float else type(value) is dict and _is_rounded(value) for value in row.values()
    )


def _is_whole(span: Span) -> bool:
    return is_packed(span.path) or _is_array(span)


def _is_array(span: Span) -> bool:
    """Whether the file is no JSON Lines, by its first bytes."""
    try:
        with opened(span.path) as file:
            if not is_packed(span.path):
                return is_spread(file.read(HEAD_BYTES))
            return is_spread(io.BufferedReader(Unpacked(file, span.path)).read(HEAD_BYTES))
    except OSError:
        return False  # reading the file reports the error
