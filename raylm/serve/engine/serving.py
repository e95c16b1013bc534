"""Which process serves an endpoint: a lock that lives as long as the process, kill -9 included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from raylm.core.errors import PlanError
from raylm.core.storage import Folder

_HELD: dict[str, Any] = {}


def check(out: Folder) -> None:
    """Raises PlanError when a process of this machine serves the endpoint in `out`. In a bucket there are no locks."""
    if (lock := _lock(out)) is not None:
        os.close(lock)


def take(out: Folder) -> None:
    """From now on this process serves `out`. Raises PlanError when another does."""
    if (lock := _lock(out)) is not None:
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        _HELD[out.uri] = lock


def leave(out: Folder) -> None:
    """This process no longer serves `out`."""
    if (lock := _HELD.pop(out.uri, None)) is not None:
        os.close(lock)


def _lock(out: Folder) -> int | None:
    if not out.is_local:
        return None
    import fcntl

    # beside the folder: what is in it is removed when it is made anew
    path = Path(out.uri).parent / f".serving.{Path(out.uri).name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(file, 20).decode() or "of another run"
        os.close(file)
        raise PlanError(
            f"this endpoint is being served by pid {pid}",
            where=out.uri,
            next=f"talk to it with `raylm chat {out.uri}`, or stop it with `kill {pid}` to serve it anew",
        ) from None
    return file
