"""Work units: the files that a glob matches, split or grouped to about equal size, and a unit's rows as tables."""

from __future__ import annotations

import glob as globbing
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import DataError
from raylm.core.stores import StoreCall
from raylm.data.records import Rejected, schema

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_BYTES = 16 << 20
# a task opens its files one after the other: more than this and the answer to "how far is it?" comes too seldom
_UNIT_FILES = 10_000
# what is fetched ahead of a reader behind a URI; s3fs would take 50 MB for every byte range
_REMOTE_BLOCK = 8 << 20
_BUFFER = 1 << 20


class Span(NamedTuple):
    """A part of one file: bytes, row groups or rows `start` to `end`. `source` is how the user wrote the path."""

    path: str
    source: str
    start: int
    end: int


class Unit(NamedTuple):
    """What one task reads. `max_bytes`: of text, where a source is capped. `columns`: of documents, beyond their own."""

    spans: tuple[Span, ...]
    max_bytes: int | None = None
    columns: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON values; `unit_of` is the inverse."""
        return {"spans": [list(span) for span in self.spans], "max_bytes": self.max_bytes, "columns": list(self.columns)}


def unit_of(plain: dict[str, Any]) -> Unit:
    """The unit that `plain()` gave."""
    return Unit(tuple(Span(*span) for span in plain["spans"]), plain["max_bytes"], tuple(plain["columns"]))


def matched(glob: str) -> list[Span]:
    """Every file that `glob` matches (`**` too, a folder means all in it), whole, sorted by name.

    Raises:
        DataError: none does, a name is no UTF-8, or the size of a file is unknown.
    """
    spans = list(_matched_remote(glob) if "://" in glob else _matched_local(os.path.expanduser(glob)))
    if not spans:
        raise DataError("no file matches", where=glob, next=f"check the path; the current folder is {os.getcwd()}")
    spans.sort(key=lambda span: span.source)
    return spans


def listing(glob: str) -> str:
    """Number, size and digest of the names and sizes of the files that a glob on a disk matches; also of none."""
    spans = sorted((span.source, span.end) for span in _matched_local(os.path.expanduser(glob)))
    return f"{len(spans):,} files, {sum(size for _, size in spans):,} bytes ({digest_of(spans)})"


def grouped(spans: Iterable[Span], unit_bytes: int, size: Callable[[Span], int] | None = None) -> list[Unit]:
    """Units of neighbouring spans, each closed as soon as it holds `unit_bytes`, or 10,000 spans."""
    units: list[Unit] = []
    held: list[Span] = []
    weight = 0
    for span in spans:
        held.append(span)
        weight += size(span) if size else span.end - span.start
        if weight >= unit_bytes or len(held) >= _UNIT_FILES:
            units.append(Unit(tuple(held)))
            held, weight = [], 0
    return [*units, Unit(tuple(held))] if held else units


def sliced(span: Span, slice_bytes: int) -> Iterator[Span]:
    """A span cut in slices; the last one may be shorter, an empty span stays one."""
    for start in range(span.start, max(span.end, span.start + 1), slice_bytes):
        yield span._replace(start=start, end=min(start + slice_bytes, span.end))


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A file for reading bytes, on a disk or behind any fsspec URI (keys of a bucket come from the environment)."""
    if "://" in path:
        import fsspec

        fs, inner = fsspec.core.url_to_fs(path)
        with fs.open(inner, "rb", block_size=_REMOTE_BLOCK) as file:
            # theirs reads whole lines only, however long they are
            yield io.BufferedReader(file, _BUFFER)
    else:
        with open(path, "rb") as file:
            yield file


def batches_of(card: Any, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
    """A unit's documents as tables of about 1000 rows or 16 MB, with the rows that could not be read.

    `card.batches` where the card has one (columns that never become Python objects), else the rows of `card.read`.
    """
    if hasattr(card, "batches"):
        yield from card.batches(unit)
        return
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    weight = 0
    for row in card.read(unit):
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            rows.append(row)
            weight += len(row["text"]) + len(row["record"] or "")
        if weight >= BATCH_BYTES or len(rows) >= BATCH_ROWS or len(rejected) >= BATCH_ROWS:
            yield table_of(rows), rejected
            rows, rejected, weight = [], [], 0
    if rows or rejected:
        yield table_of(rows), rejected


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Documents rows as a table; several times as fast as Arrow's own `from_pylist`."""
    import pyarrow as pa

    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema()]
    return pa.Table.from_arrays(columns, schema=schema())


def rows_of(batches: Iterable[tuple[pa.Table, list[Rejected]]]) -> Iterator[dict[str, Any] | Rejected]:
    """What `batches` hold, row by row: the `read` of a card that has `batches`."""
    for table, rejected in batches:
        yield from table.to_pylist()
        yield from rejected


def _matched_remote(glob: str) -> Iterator[Span]:
    with StoreCall(glob):
        import fsspec

        fs, pattern = fsspec.core.url_to_fs(glob)
        pattern = f"{pattern.rstrip('/')}/**" if fs.isdir(pattern) else pattern
        found = fs.glob(pattern, detail=True)
    for path, info in found.items():
        if info["type"] == "file" and info["size"] is None:
            # treated as empty it would be lost silently
            raise DataError("the server does not say how large this file is", where=str(path), next="name a copy on a disk")
        if info["type"] == "file":
            name = fs.unstrip_protocol(path)
            yield Span(name, name, 0, int(info["size"] or 0))


def _matched_local(glob: str) -> Iterator[Span]:
    pattern = os.path.join(glob, "**") if os.path.isdir(glob) else glob
    for name in globbing.iglob(pattern, recursive=True):
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue  # a link to nothing
        if stat.S_ISREG(found.st_mode):
            if not name.isascii() and name != name.encode("utf-8", "replace").decode():
                # the name stands in every id and mark
                raise DataError("the name of a file is no UTF-8", where=ascii(name), next="rename it")
            # workers may run in another folder, so the path is absolute; the id of a row depends on what the user wrote
            path = os.path.abspath(name)
            yield Span(name if path == name else path, name, 0, found.st_size)
