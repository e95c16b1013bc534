"""History of a run between step checkpoints: rows on disk that a rewind removes.

work/history/00000000-00000050.jsonl    rows of the steps [0, 50)     written with the checkpoint of step 50
"""

from __future__ import annotations

import json
from typing import Any

from raylm.core.errors import TrainingError
from raylm.core.metrics import as_json
from raylm.core.storage import Folder


class Segments:
    """Files `{first}-{end}{suffix}`, each with what the steps [first, end) left."""

    def __init__(self, folder: Folder, suffix: str) -> None:
        self.folder, self._suffix = folder, suffix

    def name(self, first: int, end: int) -> str:
        return f"{first:08d}-{end:08d}{self._suffix}"

    def names(self, step: int) -> list[str]:
        """Files that together hold the steps [0, step). Raises TrainingError when some of them are missing."""
        found, at = [], 0
        for first, end, name in self._all():
            if end <= step:
                if first != at:
                    break
                found.append(name)
                at = end
        if at != step:
            raise TrainingError(
                f"what the steps from {at} to {step} left behind is missing",
                where=self.folder.uri,
                next="begin the stage anew with --rebuild and its name",
            )
        return found

    def rewind(self, step: int) -> None:
        """Remove what reaches over `step`."""
        for _, end, name in self._all():
            if end > step:
                self.folder.remove(name)

    def _all(self) -> list[tuple[int, int, str]]:
        names = self.folder.files()
        ends = [(name, name.removesuffix(self._suffix).split("-")) for name in names if name.endswith(self._suffix)]
        return sorted((int(first), int(end), name) for name, (first, end) in ends)


class History:
    """Metrics rows of the run, on rank 0: kept in memory only since the last step checkpoint."""

    def __init__(self, work: Folder, rank: int = 0) -> None:
        self._segments, self._rank = Segments(work / "history", ".jsonl"), rank
        self._first = self._end = 0
        self._open: list[dict[str, Any]] = []
        self._cut: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        if self._rank == 0:
            self._open.append(row)

    def rewind(self, step: int) -> None:
        """Go back to what the checkpoint of `step` knew."""
        self._first = self._end = step
        self._open, self._cut = [], []
        if self._rank == 0:
            self._segments.rewind(step)

    def cut(self, step: int) -> History:
        """The rows up to `step` will be written by the next `put`."""
        # rows of a save that failed are still here, and go with the next
        self._cut += self._open
        self._open, self._end = [], step
        return self

    def gather(self, group: Any) -> None:
        """Nothing: rank 0 has the rows."""

    def put(self) -> None:
        lines = "".join(as_json(row) + "\n" for row in self._cut)
        self._segments.folder.write(self._segments.name(self._first, self._end), lines)
        self._first, self._cut = self._end, []

    def read(self, step: int) -> list[dict[str, Any]]:
        """All rows of the steps [0, step)."""
        folder = self._segments.folder
        return [json.loads(line) for name in self._segments.names(step) for line in folder.read(name).splitlines()]
