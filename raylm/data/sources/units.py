"""Takes a glob, leaves the files it matches as work units of about equal size."""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from raylm.core.errors import DataError


class Span(NamedTuple):
    """A part of one file: bytes, row groups or rows `start` to `end`. `source` is how the user wrote the path."""

    path: str
    source: str
    start: int
    end: int


class Unit(NamedTuple):
    """What one task reads. `max_bytes`: of text, where a source is capped."""

    spans: tuple[Span, ...]
    max_bytes: int | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values; `unit_of` is the way back."""
        return {"spans": [list(span) for span in self.spans], "max_bytes": self.max_bytes}


def unit_of(plain: dict[str, Any]) -> Unit:
    """The unit that `plain()` gave."""
    return Unit(tuple(Span(*span) for span in plain["spans"]), plain["max_bytes"])


def matched(glob: str) -> list[Span]:
    """Every file that `glob` matches (`**` too, a folder means all in it), whole, sorted by name.

    Raises:
        DataError: none does.
    """
    if "://" in glob:
        import fsspec

        fs, pattern = fsspec.core.url_to_fs(glob)
        pattern = f"{pattern.rstrip('/')}/**" if fs.isdir(pattern) else pattern
        found = fs.glob(pattern, detail=True)
        spans = [
            Span(fs.unstrip_protocol(path), fs.unstrip_protocol(path), 0, int(info["size"] or 0))
            for path, info in found.items()
            if info["type"] == "file"
        ]
    else:
        glob = os.path.expanduser(glob)
        pattern = os.path.join(glob, "**") if os.path.isdir(glob) else glob
        names = [name for name in globbing.glob(pattern, recursive=True) if os.path.isfile(name)]
        # workers may run in another folder, so the path is absolute; the id of a row hangs on what the user wrote
        spans = [Span(os.path.abspath(name), name, 0, os.path.getsize(name)) for name in names]
    if not spans:
        raise DataError("no file matches", where=glob, next=f"check the path; the current folder is {os.getcwd()}")
    return sorted(spans, key=lambda span: span.source)


def grouped(spans: Iterable[Span], unit_bytes: int, size: Any = None) -> list[Unit]:
    """Units of neighbouring spans, each closed as soon as it holds `unit_bytes`."""
    units: list[Unit] = []
    held: list[Span] = []
    weight = 0
    for span in spans:
        held.append(span)
        weight += size(span) if size else span.end - span.start
        if weight >= unit_bytes:
            units.append(Unit(tuple(held)))
            held, weight = [], 0
    return [*units, Unit(tuple(held))] if held else units


def sliced(span: Span, slice_bytes: int) -> Iterator[Span]:
    """A span cut in slices; the last one may be shorter, an empty span stays one."""
    for start in range(span.start, max(span.end, span.start + 1), slice_bytes):
        yield span._replace(start=start, end=min(start + slice_bytes, span.end))


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A file for reading bytes, on a disk or behind any fsspec URI."""
    if "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            yield file  # type: ignore[misc]
    else:
        with open(path, "rb") as file:
            yield file
