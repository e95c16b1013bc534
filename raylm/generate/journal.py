"""What became of the rows of a shard that is not whole yet: a line each, on file before the next one is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from raylm.core.config import digest_of
from raylm.core.storage import Folder
from raylm.data.marks import Plain


class Journal:
    """Of one unit. On a disk a process that is killed loses nothing that was written; what lies in a bucket cannot be appended
    to, and nothing is written there.

    Args:
        unit: what a journal of another unit under the same number is told apart by.
    """

    def __init__(self, work: Folder, number: int, unit: Plain) -> None:
        self._path = Path(work.path(f"rows-{number:05d}.jsonl")) if work.is_local else None
        self._file: TextIO | None = None
        self._head = digest_of(unit)
        self.found: dict[int, Any] = self._read()
        """By place in the unit, what an earlier attempt has written."""

    def add(self, place: int, outcome: Any) -> None:
        """One row is done; None: it is to be asked again."""
        if self._path is None:
            return
        if self._file is None:
            self._file = open(self._path, "a" if self.found else "w", encoding="utf-8")  # noqa: SIM115
            if not self.found:
                self._line(self._head)
        self._line([place, outcome])

    def remove(self) -> None:
        """The shard is whole."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _line(self, value: Any) -> None:
        assert self._file is not None
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self) -> dict[int, Any]:
        if self._path is None or not self._path.is_file():
            return {}
        whole, _, cut = self._path.read_bytes().rpartition(b"\n")
        lines = whole.split(b"\n")
        if cut and whole:
            # a kill in the middle of a line
            with open(self._path, "r+b") as file:
                file.truncate(len(whole) + 1)
        if not whole or json.loads(lines[0]) != self._head:
            return {}
        found = dict(json.loads(line) for line in lines[1:])
        return {place: outcome for place, outcome in found.items() if outcome is not None}
