"""What every filter returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Verdicts(NamedTuple):
    """One verdict per row of a batch. `reasons[i]` is a short word to count by, "" where the row is kept."""

    keep: np.ndarray
    reasons: Sequence[str]


def verdicts(reasons: Sequence[str]) -> Verdicts:
    """Verdicts in which every row without a reason is kept."""
    import numpy as np

    return Verdicts(np.array([not reason for reason in reasons], dtype=bool), reasons)
