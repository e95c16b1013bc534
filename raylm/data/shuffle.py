"""A shuffle by files: rows of all tasks, grouped by partition.

task 0 -> one file, a batch per partition --.
task 1 -> one file, a batch per partition ---+--> gather(partition): its batch of every file, in task order

Both ends are plain tasks that may be run again: a file appears whole or not at all, and has the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raylm.core.storage import Folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# block size of remote reads: s3fs would fetch 50 MB, the batches of all other partitions
_REMOTE_BLOCK = 256 << 10


def scatter(folder: Folder, name: str, task: int, table: pa.Table, part: np.ndarray, num_parts: int) -> int:
    """Write the rows of one task, grouped by partition; rows of a partition keep their order.

    Args:
        part: int[N], the partition 0 <= p < num_parts of each row.

    Returns:
        Bytes written.
    """
    import numpy as np
    import pyarrow as pa

    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(num_parts + 1))
    # one take per column and chunk: a table of one chunk slices without a copy
    table = table.combine_chunks().take(pa.array(order)).combine_chunks()
    file = _file(name, task)
    with folder.writing(file) as path, pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for at in range(num_parts):
            piece = table.slice(bounds[at], bounds[at + 1] - bounds[at])
            batches = piece.combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))
    return folder.size(file)


def gather(folder: Folder, name: str, tasks: Iterable[int], part: int) -> pa.Table:
    """All rows of one partition, in task order. Reads only that partition's batch of each file."""
    import pyarrow as pa

    return pa.concat_tables([pa.Table.from_batches([_batch(folder, _file(name, task), part)]) for task in tasks])


def _batch(folder: Folder, file: str, part: int) -> pa.RecordBatch:
    import pyarrow as pa

    if folder.is_local:
        return pa.ipc.open_file(pa.memory_map(folder.path(file))).get_batch(part)
    import fsspec

    fs, inner = fsspec.core.url_to_fs(folder.path(file))
    with fs.open(inner, "rb", block_size=_REMOTE_BLOCK) as remote:
        return pa.ipc.open_file(pa.PythonFile(remote, mode="r")).get_batch(part)


def _file(name: str, task: int) -> str:
    return f"{name}-{task:06d}.arrow"
