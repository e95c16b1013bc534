"""What every form has beside its rows: facts of its own, and what to do when no row comes out."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from raylm.core.config import Config


class Form(Config):
    """What rows are made for."""

    renders_chat: ClassVar[bool] = False
    """Whether rows are rendered by the tokenizer's chat template."""

    @property
    def remedy(self) -> str:
        """What to do when no row comes out of the documents."""
        return f"the rows must have the columns that {getattr(self, 'kind', 'they')} need (see raylm/tokenize/README.md)"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        """Facts of the artifact that only this form has, from the sums of both splits."""
        return {}


LEFT_OUT, OVERLONG = "left_out", "overlong"
"""Facts whose sums are called `left_out: what`: what templates do not render of rows that are kept; rows that were too long."""


def grouped(sums: Counter[str], *names: str) -> dict[str, dict[str, int]]:
    """Facts of sums that are called `name: what`; those that count nothing are left out."""
    found = {
        name: {key.partition(": ")[2]: count for key, count in sorted(sums.items()) if count and key.startswith(f"{name}: ")}
        for name in names
    }
    return {name: counts for name, counts in found.items() if counts}
