"""Shard files: tables written with the same bytes every time, and random access to their rows."""

from __future__ import annotations

import bisect
import itertools
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import FileEntry, open_artifact
from raylm.core.storage import Folder
from raylm.data.shard_cache import ShardCache

if TYPE_CHECKING:
    import pyarrow as pa


# shards of one split that are mapped at once: Linux lets a process have 65,530 maps
_MOST_MAPPED = 4096
# of the bytes of copies that a machine may hold, what one process maps
_MAPPED_SHARE = 0.25
_RENAMED = {"truth": "ground_truth"}


def shard_name(prefix: str, index: int, ending: str) -> str:
    """`train-00003.arrow`."""
    return f"{prefix}-{index:05d}.{ending}"


def write_parquet(folder: Folder, name: str, table: pa.Table) -> int:
    """Write Documents as zstd Parquet, in one step; returns the file's size in bytes."""
    import pyarrow.parquet as pq

    with folder.writing(name) as path:
        pq.write_table(table, path, compression="zstd", row_group_size=10_000)
    return folder.size(name)


def read_parquet(folder: Folder, name: str) -> pa.Table:
    """All rows of a Parquet shard."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder.local(name)) as file:
        return file.read()


def write_arrow(folder: Folder, name: str, table: pa.Table) -> int:
    """Write rows as one uncompressed Arrow IPC batch, in one step: a reader maps the file and copies nothing."""
    import pyarrow as pa

    table = table.combine_chunks()
    with folder.writing(name) as path, pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(table.num_rows, 1))
    return folder.size(name)


def map_arrow(path: Path | str) -> pa.Table:
    """The rows of an Arrow shard on a local disk, memory-mapped. Columns that an earlier version wrote have their new names."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    names = [_RENAMED.get(name, name) for name in table.column_names]
    return table if names == table.column_names or len(set(names)) < len(names) else table.rename_columns(names)


class Rows:
    """Random access by row number over all shards of one split. A shard is mapped when a row of it is first read.

    Args:
        folder: of the artifact.
        split: `train` or `held_out`.
        entries: the artifact's payload files, with their row counts.
    """

    def __init__(self, folder: Folder, split: str, entries: list[FileEntry]) -> None:
        self.uri, self.split, self._folder = folder.uri, split, folder
        shards = [entry for entry in entries if entry.path.startswith(f"{split}-") and entry.path.endswith(".arrow")]
        shards.sort(key=lambda entry: entry.path)
        self._shards, self._cache = shards, None if folder.is_local else ShardCache()
        self._ends = list(itertools.accumulate(entry.rows or 0 for entry in shards))
        self._columns = lru_cache(self._most_mapped())(self._map)

    @classmethod
    def open(cls, uri: str, split: str) -> Rows:
        """The rows of the artifact at `uri`; what a worker calls. Raises ArtifactError when it is not whole."""
        artifact = open_artifact(Folder(uri))
        return cls(artifact.folder, split, artifact.manifest.files)

    def __reduce__(self):
        # maps do not travel; the worker opens its own
        return (Rows.open, (self.uri, self.split))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: lists of numbers as numpy views of the mapped file (read-only), the rest as Python values."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        at = index - (self._ends[shard - 1] if shard else 0)
        return {name: column[at] for name, column in self._columns(shard).items()}

    def _most_mapped(self) -> int:
        """Shards to map at once. Of a bucket's, a copy whose turn it was to go stays on the disk as long as it is mapped."""
        if self._cache is None or not self._shards:
            return _MOST_MAPPED
        largest = max(entry.bytes for entry in self._shards)
        return max(1, min(_MOST_MAPPED, int(_MAPPED_SHARE * self._cache.limit / max(largest, 1))))

    def _map(self, shard: int) -> dict[str, _Column]:
        entry = self._shards[shard]
        if self._cache is None:
            table = map_arrow(self._folder.path(entry.path))
        else:
            table = self._cache.mapped(self._folder, entry.path, entry.digest, map_arrow)
        return {name: _Column(table.column(name)) for name in table.column_names}


class _Column:
    """One column of one shard, by row. Lists are sliced out of one flat numpy view; Arrow scalars would be ten times slower."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        import pyarrow as pa

        self._array: Any = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        self._flat, self._offsets, self._width = None, None, 0
        if pa.types.is_fixed_size_list(self._array.type):
            self._flat = _view(self._array.flatten())
            self._width = self._array.type.list_size
        elif pa.types.is_list(self._array.type):
            self._flat, self._offsets = _view(self._array.values), _view(self._array.offsets)

    def __getitem__(self, at: int) -> Any:
        if self._flat is None:
            return self._array[at].as_py()
        if self._offsets is None:
            return self._flat[at * self._width : (at + 1) * self._width]
        return self._flat[self._offsets[at] : self._offsets[at + 1]]


def _view(array: Any) -> Any:
    """Numbers without nulls as numpy, without a copy; Arrow's own method imports pandas, which takes up to a second."""
    import numpy as np

    if len(array.buffers()) < 2:
        # lists that are empty in every row may have no type of number, and then no values
        return np.empty(0, dtype=np.int64)
    dtype = array.type.to_pandas_dtype()
    return np.frombuffer(array.buffers()[1] or b"", dtype=dtype)[array.offset : array.offset + len(array)]
