"""What every form has beside its rows: facts of its own, and what to do when no row comes out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raylm.core.config import Config


class Form(Config):
    """What rows are made for."""

    @property
    def remedy(self) -> str:
        """What to do when no row comes out of the documents."""
        return f"the rows must have the columns that {getattr(self, 'kind', 'they')} need (see raylm/tokenize/README.md)"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        """Facts of the artifact that only this form has, from the sums of both splits."""
        return {}
