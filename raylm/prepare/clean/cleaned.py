"""What every cleaner returns."""

from __future__ import annotations

from typing import NamedTuple


class Cleaned(NamedTuple):
    """One text per input text, "" where nothing is left of it; `counts`: changes by a short name."""

    texts: list[str]
    counts: dict[str, int]
