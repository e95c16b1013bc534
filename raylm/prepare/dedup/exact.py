"""Takes the documents of all shards, leaves the first of each group that reads the same."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING, Literal

from raylm.core.config import Config

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Exact(Config):
    """Drops exact duplicates of the normalised text (NFKC, lower case, single spaces); of structured rows, of the whole row."""

    kind: Literal["exact"] = "exact"

    def keys(self, table: pa.Table) -> np.ndarray:
        """[N, 2] uint64: a 128-bit hash per row."""
        import numpy as np

        rows = zip(table["text"].to_pylist(), table["record"].to_pylist(), strict=True)
        joined = b"".join(_digest(text if record is None else record) for text, record in rows)
        return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)

    def keep(self, keys: list[np.ndarray]) -> list[np.ndarray]:
        """One mask per shard: the first row of each hash stays, counted through the shards in order.

        The order is that of the files, so however they are cut into shards, the same rows stay.
        """
        import numpy as np

        every = np.concatenate(keys)
        # lexsort is stable: within equal hashes the earliest row comes first
        order = np.lexsort((every[:, 1], every[:, 0]))
        ranked = every[order]
        first = np.ones(len(every), dtype=bool)
        first[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
        mask = np.zeros(len(every), dtype=bool)
        mask[order[first]] = True
        return np.split(mask, np.cumsum([len(part) for part in keys])[:-1])


def _digest(text: str) -> bytes:
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return hashlib.blake2b(" ".join(plain.lower().split()).encode(), digest_size=16).digest()
