"""Takes JSON Lines files, plain or compressed, leaves one document per line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, read_row
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, sliced

_BLOCK = 1 << 20


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
        spans = [
            part for span in matched(self.glob) for part in ([span] if _packed(span.path) else sliced(span, self.split_bytes))
        ]
        return grouped(spans, self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit. A line belongs to the range in which its first byte lies."""
        for span in unit.spans:
            try:
                with _unpacked(span.path) as file:
                    for start, line in _lines(file, span, self.max_row_bytes, seek=not _packed(span.path)):
                        if line is None:
                            yield Rejected("row_too_long", f"{span.source}:{start}")
                        elif line.strip():
                            yield self._row(span.source, start, line)
            except OSError:
                # rows before the break have been given; what follows in this file is lost, and said so
                yield Rejected("unreadable_file", span.source)

    def _row(self, source: str, start: int, line: bytes) -> dict[str, Any] | Rejected:
        where = f"{source}:{start}"
        try:
            row = json.loads(line.decode("utf-8-sig" if start == 0 else "utf-8"))
        except UnicodeDecodeError:
            return Rejected("invalid_utf8", where)
        except (ValueError, RecursionError):
            return Rejected("invalid_json", where)
        return read_row(row, self.text_column, source, start, start + len(line))


def _lines(file: IO[bytes], span: Span, max_bytes: int, seek: bool) -> Iterator[tuple[int, bytes | None]]:
    """(first byte, line) of every line that begins in the span; None in place of a line that is too long."""
    at = span.start if seek else 0
    if seek and at:
        # one byte back: if that is a newline, a line begins exactly at the span
        file.seek(at - 1)
        at += _skip_line(file) - 1
    while not seek or at < span.end:
        line = file.readline(max_bytes + 1)
        if not line:
            return
        if len(line) > max_bytes and not line.endswith(b"\n"):
            yield at, None
            at += len(line) + _skip_line(file)
        else:
            yield at, line
            at += len(line)


def _skip_line(file: IO[bytes]) -> int:
    """Read to behind the next newline, a block at a time; leaves how many bytes that were."""
    skipped = 0
    while block := file.readline(_BLOCK):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped


def _packed(path: str) -> bool:
    return path.endswith((".gz", ".zst"))


@contextmanager
def _unpacked(path: str) -> Iterator[IO[bytes]]:
    with opened(path) as file:
        if not _packed(path):
            yield file
            return
        import pyarrow as pa

        # Arrow's reader knows several frames in one file, and says when a file was cut short (zstandard's does not)
        packed = pa.PythonFile(file, mode="r")
        yield io.BufferedReader(pa.CompressedInputStream(packed, "gzip" if path.endswith(".gz") else "zstd"), _BLOCK)
