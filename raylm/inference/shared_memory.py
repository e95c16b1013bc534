"""Memory that one process writes and others of the same machine read, without a copy for each of them.

It has no name in any folder: others open it through its writer (`/proc/<pid>/fd/<n>`), and the kernel frees it with the last
process that has it, however that ends. Linux only; elsewhere, and in another container, it cannot be opened.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

HEADER = 4096
"""Bytes before the first slot: who is writing."""
LABEL = 64


class SharedMemory:
    """Bytes that this process writes, in slots of one size behind each other. Pages that were never written cost nothing."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("raylm-weights", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else -1
        self._map: Any = None

    @property
    def path(self) -> str:
        """Where other processes of this machine find it; "" on a system that has no such memory."""
        return f"/proc/{os.getpid()}/fd/{self._fd}" if self._fd >= 0 else ""

    def label(self, text: str) -> None:
        """Say what is in it from now on, in up to 64 bytes."""
        self._view(0, LABEL)[:] = memoryview(text.encode().ljust(LABEL, b"\0"))

    def slot(self, at: int, size: int) -> Any:
        """numpy uint8 view of `size` bytes, `at` bytes behind the header."""
        return self._view(HEADER + at, size)

    def close(self) -> None:
        """Give it up here; who has mapped it keeps it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._map = -1, None

    def __del__(self) -> None:
        self.close()

    def _view(self, at: int, size: int) -> Any:
        import numpy as np

        if self._map is None or len(self._map) < at + size:
            length = -(-(at + size) // mmap.PAGESIZE) * mmap.PAGESIZE
            if self._fd >= 0:
                os.ftruncate(self._fd, length)
                # what was given out of a shorter map stays valid: it is the same memory
                self._map = mmap.mmap(self._fd, length)
            else:
                self._map = bytearray(length)
        return np.frombuffer(self._map, np.uint8, size, at)


class Mapped:
    """What another process wrote, or a file: mapped once and read in place."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            self._made = (found.st_dev, found.st_ino)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if found.st_size else b""

    def is_of(self, path: str, end: int) -> bool:
        """Whether this is what lies at `path` now, `end` bytes of it at least."""
        found = os.stat(path)
        return path == self.path and self._made == (found.st_dev, found.st_ino) and len(self._map) >= end

    def view(self, at: int, size: int | None = None) -> Any:
        """numpy uint8, read-only."""
        import numpy as np

        return np.frombuffer(self._map, np.uint8, len(self._map) - at if size is None else size, at)

    def label(self) -> str:
        """What its writer says is in it."""
        return bytes(self._map[:LABEL]).rstrip(b"\0").decode(errors="replace")


class Maps:
    """The memory that was mapped last, kept from bucket to bucket: to map it anew would cost as much as to read it."""

    def __init__(self) -> None:
        self._last: Mapped | None = None

    def of(self, path: str, end: int = 0) -> Mapped:
        """Raises OSError where it cannot be opened from this process."""
        if self._last is None or not self._last.is_of(path, end):
            self._last = Mapped(path)
        return self._last

    def has(self, address: int) -> bool:
        """Whether a byte of this process's memory lies in it."""
        if self._last is None:
            return False
        first = self._last.view(0).ctypes.data
        return first <= address < first + len(self._last.view(0))


def shares(path: str, label: str) -> bool:
    """Whether this process can read the memory at `path`, and its label is `label`: paths of another machine may exist here."""
    try:
        return bool(path) and Mapped(path).label() == label
    except (OSError, ValueError):
        return False
