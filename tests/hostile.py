"""A deadline for code that reads hostile input: what is not linear in such input takes hours."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEVER_S = 300


@contextmanager
def ends() -> Iterator[None]:
    """Raises TimeoutError in a block that would not end; no measure of speed: a hundred times what linear work takes."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done after {NEVER_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(NEVER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
