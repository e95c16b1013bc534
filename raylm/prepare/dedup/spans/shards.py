"""The plain texts of a shard as bytes, and which shard, or group of shards, a row number is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raylm.prepare.corpus import View

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# zstd makes text this many times smaller: a guess that sizes partitions, never what is in them
_COMPRESSION = 4


class Texts(NamedTuple):
    """Unstructured rows of one shard that are still there. Text `at` is data[offsets[at] : offsets[at + 1]]."""

    row: np.ndarray
    """int64[N], ascending."""
    id: pa.ChunkedArray
    data: np.ndarray
    """uint8[bytes]"""
    offsets: np.ndarray
    """int64[N + 1]"""

    def bytes_of(self, at: int) -> bytes:
        return self.data[self.offsets[at] : self.offsets[at + 1]].tobytes()


def texts_of(view: View, at: int) -> Texts:
    """The texts of shard `at`; structured rows are left out, for they are never cut."""
    import numpy as np

    table = view.table(at, ("id", "text", "record"))
    table = table.filter(table["record"].is_null()).combine_chunks()
    if not table.num_rows:
        return Texts(np.zeros(0, np.int64), table["id"], np.zeros(0, np.uint8), np.zeros(1, np.int64))
    column = table["text"].combine_chunks()
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    held = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return Texts(table["row"].to_numpy(), table["id"], held, bounds)


def text_bytes(view: View) -> int:
    """About how many bytes of text a view has, from the sizes of its files."""
    return _COMPRESSION * sum(shard.folder.size(shard.name) for shard in view.shards)


def num_groups(view: View, parts: int) -> int:
    """In how many groups of neighbouring shards the shards are worked through: no more than there are shards."""
    return max(1, min(parts, len(view.shards)))


def group_of(view: View, row: np.ndarray, groups: int) -> np.ndarray:
    """int64[N]: the group of shards that each row lies in."""
    import numpy as np

    firsts = np.array([shard.first for shard in view.shards])
    return (np.searchsorted(firsts, row, side="right") - 1) * groups // len(view.shards)


def shards_of(view: View, group: int, groups: int) -> list[int]:
    """The shards of one group."""
    return [at for at in range(len(view.shards)) if at * groups // len(view.shards) == group]


def lying_in(view: View, at: int, rows: np.ndarray) -> np.ndarray:
    """bool[N]: which of `rows` lie in shard `at`."""
    shard = view.shards[at]
    return (rows >= shard.first) & (rows < shard.first + shard.rows)
