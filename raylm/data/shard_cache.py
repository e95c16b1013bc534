"""Copies of a bucket's shards on the disks of the machines that read them: of a bounded number of bytes, the oldest go first.

reader -> is there a copy? -> map it                     all readers of a machine share the copies;
             no -> fetch (one reader does) -> make room -> map    one that goes while it is mapped is whole for who maps it
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from raylm.core.errors import StorageError
from raylm.core.storage import Folder, own_folder

SHARE = 0.5
"""Of the disk's room for the copies: what is free and what they hold already."""
Mapped = TypeVar("Mapped")


class ShardCache:
    """The copies of this machine and user.

    Args:
        at: their folder; by default one in TMPDIR.
        limit: bytes that they may hold; by default `SHARE` of the disk's room.
    """

    def __init__(self, at: Path | None = None, limit: int | None = None) -> None:
        self._at = at or Path(tempfile.gettempdir()) / f"raylm-shards-{os.getuid()}"
        self._limit = limit

    def mapped(self, folder: Folder, name: str, digest: str, open_file: Callable[[Path], Mapped]) -> Mapped:
        """What `open_file` makes of a copy of the file `name`, fetched if there is none.

        Args:
            digest: of its content, as its artifact's manifest has it: another content is another copy; "" asks the store.

        Raises:
            StorageError: others may write to the copies' folder; it cannot be fetched, or has other bytes than the manifest
                says: no copy of these is kept.
        """
        own_folder(self._at)
        key = f"{folder.path(name)} {digest or folder.version(name)}"
        path = self._at / hashlib.sha256(key.encode()).hexdigest()[:24]
        # one lock of 256: readers of other shards do not wait, and lock files do not pile up
        with _alone(self._at / f".fetch-{path.name[:2]}"):
            with _alone(self._at / ".lock"):
                if path.exists():
                    return self._open(path, open_file)
            part = path.with_suffix(".part")
            try:
                folder.fetch(name, str(part))
                if digest and Folder(self._at).digest(part.name) != digest:
                    raise StorageError(
                        "it has other bytes than its manifest says: it was made again while this read it, or is damaged",
                        where=folder.path(name),
                        next="run the same command again; if it comes back, --rebuild with the name of the stage that makes it",
                    )
                with _alone(self._at / ".lock"):
                    self._make_room(part.stat().st_size)
                    os.replace(part, path)
                    return self._open(path, open_file)
            finally:
                part.unlink(missing_ok=True)

    @property
    def limit(self) -> int:
        """Bytes that the copies may hold."""
        if self._limit is not None:
            return self._limit
        return int(SHARE * (shutil.disk_usage(self._at.parent).free + sum(size for _, size, _ in self._copies())))

    def _open(self, path: Path, open_file: Callable[[Path], Mapped]) -> Mapped:
        os.utime(path)
        return open_file(path)

    def _make_room(self, size: int) -> None:
        copies = sorted(self._copies())
        held, limit = sum(each for _, each, _ in copies), self.limit
        for _, each, path in copies:
            if held + size <= limit:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            held -= each

    def _copies(self) -> list[tuple[float, int, Path]]:
        """(when it was mapped last, bytes, path)."""
        found = []
        for path in self._at.glob("*"):
            with suppress(FileNotFoundError):
                if not path.name.startswith(".") and path.suffix != ".part":
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        return found


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """The lock of a file, among the processes of this machine; it dies with its process."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
