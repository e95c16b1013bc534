"""Starts Ray on this machine; a start that timed out on a busy machine is tried again."""

from __future__ import annotations

import glob
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from raylm.core.errors import PlacementError

TRIES = 3
PAUSE_S = 5.0
# Ray's own deadlines for its processes (15 and 30 s) are constants, and what it raises past them are bare Exceptions
TOO_SLOW = re.compile(r"timed out during startup|Timed out waiting for file|Failed to start GCS", re.IGNORECASE)
LAST_WORDS = re.compile(r"(?:^| )[CEF] |error|exception|timed out|failed", re.IGNORECASE)


class _TooSlow:
    """Catches the error of a `with` block if it says that Ray's node did not start in time; others propagate."""

    def __init__(self) -> None:
        self.cause: BaseException | None = None

    def __enter__(self) -> _TooSlow:
        return self

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None) -> bool:
        self.cause = cause if isinstance(cause, Exception) and TOO_SLOW.search(str(cause)) else None
        return self.cause is not None


def start_node(num_cpus: int, object_store_bytes: int) -> None:
    """Start Ray on this machine.

    Raises:
        PlacementError: it did not start in `TRIES` tries; with the last words of its logs.
    """
    import ray

    def start() -> None:
        # an explicit address: plain ray.init() would attach to any cluster that happens to run here
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=object_store_bytes,
        )

    again(start, _end_what_is_left)


def again(start: Callable[[], None], tidy: Callable[[], None]) -> None:
    """Call `start` up to `TRIES` times, `tidy` after each one that Ray was too slow for.

    Raises:
        PlacementError: no try succeeded. What else `start` raises is raised as it is.
    """
    for number in range(1, TRIES + 1):
        with _TooSlow() as slow:
            start()
        if slow.cause is None:
            return
        tidy()
        if number < TRIES:
            notice = (
                f"Ray's node did not start in time ({_first_line(slow.cause)}); is the machine busy? try {number + 1} of {TRIES}"
            )
            print(f"  {notice}", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S * number)
    raise PlacementError(
        f"Ray's node did not start in {TRIES} tries: {_first_line(slow.cause)}\n{last_words(_logs())}",
        where=_logs() or "ray.init",
        next="free cores or memory of this machine, then the same command again",
    ) from slow.cause


def last_words(logs: str, lines: int = 3) -> str:
    """What raylet and GCS wrote last, with the name of each log: errors where there are any."""
    excerpts = []
    for name in ("raylet.out", "raylet.err", "gcs_server.out", "gcs_server.err", "dashboard_agent.log"):
        path = os.path.join(logs, name)
        if logs and os.path.isfile(path):
            with open(path, errors="replace") as file:
                text = [line.rstrip() for line in file if line.strip()]
            picked = [line for line in text if LAST_WORDS.search(line)][-lines:] or text[-1:]
            excerpts += [f"    {name}: {line[:400]}" for line in picked]
    return "\n".join(excerpts) or "    no log was written"


def _logs() -> str:
    """Folder of the logs of the newest node that this process tried to start; Ray names sessions by its process id."""
    at = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    found = glob.glob(os.path.join(at, "ray", f"session_*_{os.getpid()}", "logs"))
    return max(found, key=os.path.getmtime, default="")


def _end_what_is_left() -> None:
    """End processes that a failed start left behind; Ray keeps no record of them."""
    import psutil
    import ray

    ray.shutdown()
    left = [child for child in psutil.Process().children(recursive=True) if _is_rays(child)]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def _is_rays(process: Any) -> bool:
    import psutil

    try:
        return any("/ray/" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _first_line(cause: BaseException | None) -> str:
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
