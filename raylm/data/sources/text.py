"""Takes .txt files, leaves one document per file, or one per block between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, document
from raylm.data.sources.units import Unit, grouped, matched, opened

_BLANK = re.compile(rb"(?:\r?\n[ \t]*){2,}")


class Text(Config):
    """Plain UTF-8 text files."""

    kind: Literal["text"] = "text"
    glob: str
    """Path, folder, glob (`data/**/*.txt`) or URI of the files."""
    by: Literal["file", "block"] = "file"
    """One document per file, or per block of lines between blank lines."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A document longer than this is dropped and counted as row_too_long."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Small files are read together until a work unit holds this much."""

    def units(self) -> list[Unit]:
        """Groups of neighbouring files. Raises DataError when no file matches."""
        return grouped(matched(self.glob), self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit."""
        for span in unit.spans:
            try:
                if self.by == "file" and span.end > self.max_row_bytes:
                    yield Rejected("row_too_long", f"{span.source}:0")
                    continue
                with opened(span.path) as file:
                    content = file.read()
            except OSError:
                yield Rejected("unreadable_file", span.source)
                continue
            for start, end in _blocks(content) if self.by == "block" else [(0, len(content))]:
                yield self._row(span.source, start, end, content)

    def _row(self, source: str, start: int, end: int, content: bytes) -> dict[str, Any] | Rejected:
        where = f"{source}:{start}"
        if end - start > self.max_row_bytes:
            return Rejected("row_too_long", where)
        try:
            text = content[start:end].decode()
        except UnicodeDecodeError:
            return Rejected("invalid_utf8", where)
        return document(source, start, end, text) if text.strip() else Rejected("empty", where)


def _blocks(content: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in _BLANK.finditer(content):
        if gap.start() > start:
            yield start, gap.start()
        start = gap.end()
    if content[start:].strip():
        yield start, len(content.rstrip())
