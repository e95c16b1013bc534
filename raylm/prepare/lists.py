"""Reads lists, one entry per line, from a path or URI, plain or .gz."""

from __future__ import annotations

import gzip
import os
import zlib

from raylm.core.errors import DataError
from raylm.core.storage import Folder


def parted(path: str) -> tuple[Folder, str]:
    """The folder of a file, absolute, and its name there."""
    folder, _, name = os.path.expanduser(path).rpartition("/")
    return Folder(folder or ("/" if path.startswith("/") else ".")), name


def absolute(path: str) -> str:
    """The path or URI of a file that says the same in every folder: workers may run in another."""
    folder, name = parted(path)
    return folder.path(name)


def lines_of(path: str) -> list[str]:
    """Lines without white space around them, remarks (`# ...`) and empty lines; the file is read whole.

    Raises:
        StorageError: there is no such file.
        DataError: it is no UTF-8 text, or broken gzip.
    """
    folder, name = parted(path)
    data = folder.read(name)
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as cause:
        raise DataError(f"unreadable list: {cause}", where=path, next="write UTF-8 text, one entry a line") from cause
    entries = (line.strip() for line in text.split("\n"))
    return [entry.partition(" #")[0].rstrip() for entry in entries if entry and not entry.startswith("#")]
