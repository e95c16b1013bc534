"""Document boundaries of a packed row, from its `starts`, in the forms that kernels and masks need.

Shapes: D documents in the row, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cu_seqlens(starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Cumulative lengths, int32 [D + 1]: document d is `tokens[cu[d]:cu[d + 1]]`; what stands before `starts[0]` is one too."""
    inner = [int(start) for start in starts if 0 < start < length]
    return np.array([0, *inner, length], dtype=np.int32)


def position_ids(starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Position of each token in its document, int64 [T]."""
    bounds = cu_seqlens(starts, length)
    return np.arange(length, dtype=np.int64) - np.repeat(bounds[:-1], np.diff(bounds))


def document_ids(starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Number of each token's document within the row, int64 [T]."""
    bounds = cu_seqlens(starts, length)
    return np.repeat(np.arange(len(bounds) - 1, dtype=np.int64), np.diff(bounds))
