"""Random numbers of documents, drawn by a hash of their ids: the same in every run and for any sharding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def lots(ids: Sequence[str], use: str, seed: int) -> np.ndarray:
    """uint64[N]. Another `use` (up to 16 bytes) or seed draws independent lots."""
    import numpy as np

    start = hashlib.blake2b(digest_size=8, person=use.encode(), salt=seed.to_bytes(8, "little", signed=True))
    drawn = bytearray()
    for id in ids:
        one = start.copy()
        one.update(id.encode())
        drawn += one.digest()
    return np.frombuffer(drawn, dtype="<u8")


def points(drawn: np.ndarray) -> np.ndarray:
    """float64[N] in [0, 1), of 53 bits: a point below a share is drawn with just that probability."""
    import numpy as np

    return (drawn >> np.uint64(11)) * 2.0**-53
