"""The `text` source: .txt files, one document per file, per paragraph between blank lines, or per line."""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, document
from raylm.data.sources.lines import line_units, lines_in
from raylm.data.sources.packed import Unpacked, is_packed
from raylm.data.sources.units import Span, Unit, grouped, matched, opened


class Text(Config):
    """UTF-8 text files, plain, `.gz` or `.zst`; by paragraph or line they are never held whole."""

    kind: Literal["text"] = "text"
    glob: str
    """Path, folder, glob (`data/**/*.txt`) or URI of the files."""
    by: Literal["file", "paragraph", "line"] = "file"
    """One document per file, per paragraph (lines between blank lines), or per line that is not blank."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A document longer than this is dropped and counted as row_too_long."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Small files are read together until a work unit holds this much; by line, larger plain files are cut in byte ranges."""

    def units(self) -> list[Unit]:
        """Groups of neighbouring files, or ranges of lines. Raises DataError when no file matches."""
        return line_units(self.glob, self.split_bytes) if self.by == "line" else grouped(matched(self.glob), self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit."""
        for span in unit.spans:
            if self.by == "file":
                yield self._file(span)
                continue
            for found in self._paragraphs(span) if self.by == "paragraph" else self._lines(span):
                if isinstance(found, Rejected):
                    yield found
                elif not found[1].isspace():
                    content = found[1].rstrip(b"\r\n")
                    yield self._row(span.source, found[0], content)

    def _file(self, span: Span) -> dict[str, Any] | Rejected:
        packed = is_packed(span.path)
        if span.end > self.max_row_bytes and not packed:
            return Rejected("row_too_long", f"{span.source}:0")
        try:
            with opened(span.path) as file:
                stream = Unpacked(file, span.path) if packed else None
                # no more than is allowed, and one: a small file may unpack to any size
                content = io.BufferedReader(stream).read(self.max_row_bytes + 1) if stream else file.read()
        except OSError:
            return Rejected("unreadable_file", f"{span.source}:0")
        if len(content) > self.max_row_bytes:
            return Rejected("row_too_long", f"{span.source}:0")
        if stream and stream.broken:
            return Rejected(stream.broken, f"{span.source}:{stream.at}")
        start = len(BOM_UTF8) if content.startswith(BOM_UTF8) else 0
        return self._row(span.source, start, content[start:])

    def _row(self, source: str, start: int, content: bytes) -> dict[str, Any] | Rejected:
        where = f"{source}:{start}"
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return Rejected("invalid_utf8", where)
        return document(source, start, start + len(content), text) if text.strip() else Rejected("empty", where)

    def _lines(self, span: Span) -> Iterator[tuple[int, bytes] | Rejected]:
        """(first byte, line) of every line; the byte order mark that a file may begin with belongs to none."""
        for found in lines_in(span, self.max_row_bytes):
            if not isinstance(found, Rejected) and found[0] == 0 and found[1].startswith(BOM_UTF8):
                yield len(BOM_UTF8), found[1][len(BOM_UTF8) :]
            else:
                yield found

    def _paragraphs(self, span: Span) -> Iterator[tuple[int, bytes] | Rejected]:
        """(first byte, lines) of every block between blank lines; one with a line that cannot be read is dropped whole."""
        held: list[bytes] = []
        first = size = 0
        lost = False
        for found in self._lines(span):
            if isinstance(found, Rejected):
                yield found
                held, lost = [], True
            elif found[1].isspace():
                if held:
                    yield first, b"".join(held)
                held, size, lost = [], 0, False
            elif not lost:
                first = first if held else found[0]
                held.append(found[1])
                size += len(found[1])
                if size > self.max_row_bytes:
                    yield Rejected("row_too_long", f"{span.source}:{first}")
                    held, lost = [], True
        if held:
            yield first, b"".join(held)
