"""Takes texts, leaves the one thing that every cleaner answers."""

from __future__ import annotations

from typing import NamedTuple


class Cleaned(NamedTuple):
    """One text per text given; `counts` says what was changed, by a short word. "" means that nothing is left of it."""

    texts: list[str]
    counts: dict[str, int]
