"""Every answer of a model, kept at once: a run that died asks only for what is missing."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from raylm.core.storage import Folder

EVERY_S = 5.0
"""Seconds between two writes through to the disk; a process that is killed loses nothing, a machine without power these."""
EVERY = 64
"""Answers of one object, where files cannot be appended to."""


class Journal:
    """Digest of a request -> answer. Each process appends to a file of its own and reads those of all before it.

    Args:
        folder: of one model; None keeps nothing.
    """

    def __init__(self, folder: Folder | None) -> None:
        self._folder, self._file, self._waiting = folder, None, list[str]()
        self._parts, self._name = 0, f"{time.time_ns()}-{os.getpid()}"
        self._synced = time.monotonic()
        self.found: dict[str, Any] = {}
        if folder is not None and folder.exists():
            for name in folder.files():
                self.found |= _read(folder.read(name))

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer, a plain JSON value; numbers may be NaN."""
        self.found[key] = answer
        if self._folder is None:
            return
        line = json.dumps([key, answer], ensure_ascii=True, separators=(",", ":")) + "\n"
        if not self._folder.is_local:
            self._waiting.append(line)
            if len(self._waiting) >= EVERY or time.monotonic() - self._synced > EVERY_S:
                self.flush()
            return
        if self._file is None:
            self._file = open(self._folder.make().path(f"{self._name}.jsonl"), "a", encoding="ascii")  # noqa: SIM115
        self._file.write(line)
        # into the kernel's hands: what a killed process wrote is read by the next one
        self._file.flush()
        if time.monotonic() - self._synced > EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write through to the disk, or to the bucket."""
        self._synced = time.monotonic()
        if self._file is not None:
            os.fsync(self._file.fileno())
        elif self._waiting and self._folder is not None:
            self._folder.write(f"{self._name}-{self._parts:05d}.jsonl", "".join(self._waiting))
            self._parts, self._waiting = self._parts + 1, []


def _read(content: bytes) -> dict[str, Any]:
    """The answers of one file; a line that a crash cut short is the last one, and is left out."""
    found = {}
    for line in content.split(b"\n"):
        try:
            key, answer = json.loads(line)
        except (ValueError, TypeError):
            break
        found[key] = answer
    return found
