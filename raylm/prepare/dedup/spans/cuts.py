"""Decisions from byte ranges to remove: ranges are cut out, or the document is dropped when too little is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.prepare.corpus import decisions_schema

if TYPE_CHECKING:
    import pyarrow as pa

_SPACE = b" \t\n\r\x0b\x0c"


class Cuts:
    """Decisions about the documents of one task.

    Args:
        reason: of a document that is dropped because fewer than `min_chars` characters are left of it.
    """

    def __init__(self, reason: str, min_chars: int) -> None:
        self.cut, self.dropped, self.bytes = 0, 0, 0
        self._reason, self._min_chars = reason, min_chars
        self._rows: list[dict[str, Any]] = []

    def take(self, row: int, data: bytes, ranges: list[tuple[int, int]], because: str | None = None) -> None:
        """Decide about one document.

        Args:
            data: its text in UTF-8.
            ranges: starts and ends, ascending, at character boundaries; they may touch or overlap.
        """
        ranges = _tidied(data, merged(ranges))
        gone = sum(end - start for start, end in ranges)
        rest, at = [], 0
        for start, end in ranges:
            rest.append(data[at:start])
            at = end
        whole = len(b"".join([*rest, data[at:]]).decode().strip()) < self._min_chars
        self.dropped += whole
        self.cut += not whole
        self.bytes += len(data) if whole else gone
        flat = None if whole else [bound for both in ranges for bound in both]
        share = gone / max(len(data), 1)
        self._rows.append({"row": row, "reason": self._reason, "because": because, "score": share, "cuts": flat})

    def table(self) -> pa.Table:
        """All of them; `score` is the share of the text's bytes that is repeated."""
        import pyarrow as pa

        return pa.Table.from_pylist(self._rows, schema=decisions_schema())

    def counts(self) -> dict[str, int]:
        """As JSON values for a mark."""
        return {"cut": self.cut, "dropped": self.dropped, "bytes_cut": self.bytes}


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending ranges as disjoint ones that do not touch."""
    disjoint: list[tuple[int, int]] = []
    for start, end in ranges:
        if disjoint and start <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(end, disjoint[-1][1]))
        else:
            disjoint.append((start, end))
    return disjoint


def _tidied(data: bytes, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A cut that reaches the end takes the white space before it along: no text is left with a loose end."""
    while ranges and ranges[-1][1] == len(data):
        start = len(data[: ranges[-1][0]].rstrip(_SPACE))
        if len(ranges) > 1 and start <= ranges[-2][1]:
            ranges = [*ranges[:-2], (ranges[-2][0], len(data))]
            continue
        return [*ranges[:-1], (start, len(data))]
    return ranges
