"""Lines of a part of a file, plain or compressed, with their positions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO

from raylm.data.records import Rejected
from raylm.data.sources.packed import Unpacked, is_packed
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, sliced

_BLOCK = 1 << 20


def line_units(glob: str, split_bytes: int) -> list[Unit]:
    """Byte ranges of plain files, whole compressed files. Raises DataError when no file matches."""
    spans = [part for span in matched(glob) for part in ([span] if is_packed(span.path) else sliced(span, split_bytes))]
    return grouped(spans, split_bytes)


def lines_in(span: Span, max_bytes: int) -> Iterator[tuple[int, bytes] | Rejected]:
    """(first byte, line) of every line that begins in the span; positions in a compressed file are of what is unpacked.

    A line of more than `max_bytes` is never held in memory. Behind a broken part of a compressed file reading goes on
    where it can; half a line in front of the break is left out.
    """
    try:
        with opened(span.path) as file:
            if not is_packed(span.path):
                yield from _lines(file, span.source, _first(file, span.start), span.end, max_bytes)
                return
            stream, at = Unpacked(file, span.path), 0
            while True:
                reader = io.BufferedReader(stream, _BLOCK)
                for found in _lines(reader, span.source, at, None, max_bytes):
                    if not isinstance(found, Rejected):
                        at = found[0] + len(found[1])
                        if stream.broken and not found[1].endswith(b"\n"):
                            break
                    yield found
                reader.detach()
                if not stream.broken:
                    return
                yield Rejected(stream.broken, f"{span.source}:{stream.at}")
                if not stream.resume():
                    return
    except OSError:
        # rows before the break have been given; the rest of this file is lost, and counted
        yield Rejected("unreadable_file", f"{span.source}:{span.start}")


def _lines(file: IO[bytes], source: str, at: int, end: int | None, max_bytes: int) -> Iterator[tuple[int, bytes] | Rejected]:
    while end is None or at < end:
        line = file.readline(max_bytes + 1)
        if not line:
            return
        if len(line) > max_bytes and not line.endswith(b"\n"):
            yield Rejected("row_too_long", f"{source}:{at}")
            at += len(line) + _skip_line(file)
        else:
            yield at, line
            at += len(line)


def _first(file: IO[bytes], start: int) -> int:
    """Put the file where the first line at or behind `start` begins."""
    if not start:
        return 0
    # one byte back: if that is a newline, a line begins exactly at the span
    file.seek(start - 1)
    return start - 1 + _skip_line(file)


def _skip_line(file: IO[bytes]) -> int:
    """Read to behind the next newline, a block at a time; leaves how many bytes that were."""
    skipped = 0
    while block := file.readline(_BLOCK):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped
