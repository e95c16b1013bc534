"""Takes JSON Lines files, plain or compressed, leaves one document per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, is_structured, read_row
from raylm.data.sources.lines import line_units, lines_in
from raylm.data.sources.units import Unit

_EXACT = float(1 << 63)


class Jsonl(Config):
    """One JSON object a line: `.jsonl`, `.jsonl.gz` or `.jsonl.zst`."""

    kind: Literal["jsonl"] = "jsonl"
    glob: str
    """Path, folder, glob (`data/**/*.jsonl.gz`) or URI of the files."""
    text_column: str | None = None
    """Column that is the text. Without it a row in one of TRL's shapes is kept whole, and of any other row `text`."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A line longer than this is dropped and counted as row_too_long; it is never held in memory."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Size of a work unit: larger plain files are cut in byte ranges, smaller ones read together."""

    def units(self) -> list[Unit]:
        """Byte ranges of plain files, whole compressed files. Raises DataError when no file matches."""
        return line_units(self.glob, self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit. A line belongs to the range in which its first byte lies."""
        for span in unit.spans:
            for found in lines_in(span, self.max_row_bytes):
                if isinstance(found, Rejected):
                    yield found
                elif not found[1].isspace():
                    yield self._row(span.source, *found)

    def _row(self, source: str, start: int, line: bytes) -> dict[str, Any] | Rejected:
        import orjson

        try:
            row = orjson.loads(line)
            # it gives integers of more than 64 bits as floats; a structured row is kept whole, to the last digit
            exact = type(row) is dict and not any(type(value) is float and abs(value) >= _EXACT for value in row.values())
            if exact and (self.text_column or not is_structured(row)):
                return read_row(row, self.text_column, source, start, start + len(line))
        except orjson.JSONDecodeError:
            pass  # a byte order mark, NaN, half a surrogate pair, or an error whose reason is told below
        where = f"{source}:{start}"
        try:
            row = json.loads(line.decode("utf-8-sig" if start == 0 else "utf-8"))
        except UnicodeDecodeError:
            return Rejected("invalid_utf8", where)
        except (ValueError, RecursionError):
            return Rejected("invalid_json", where)
        return read_row(row, self.text_column, source, start, start + len(line))
