"""What one of the processes of a test run makes and all of them read."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this run, filled by the first process that asks for it; the others wait until it is whole."""
    base = factory.getbasetemp()
    # under xdist each process has a folder of its own in that of the run
    at = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    at.mkdir(exist_ok=True)
    with (at / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (at / "whole").exists():
            make(at)
            (at / "whole").touch()
    return at
