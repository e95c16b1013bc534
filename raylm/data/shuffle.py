"""A shuffle by files: rows of all tasks, grouped by partition.

task 0 -> one file, a batch per partition --.
task 1 -> one file, a batch per partition ---+--> gather(partition): its batch of every file, in task order

Of more than `MOST` tasks the files are first merged in groups, each read whole and once; otherwise every partition would read a
little of every file, 30,000 x 200 times. All ends are plain tasks that may be run again: a file appears whole or not at all, and
has the same bytes every time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from raylm.core.storage import Folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST = 256
"""Files of which each partition reads a batch; more tasks than that are merged first."""
_READERS = 16
"""Batches behind a URI that are fetched at the same time: each is an answer to wait for."""
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

    files = [_file(name, task) for task in tasks]
    if folder.is_local:
        batches = [_batch(folder, file, part) for file in files]
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            batches = list(pool.map(lambda file: _batch(folder, file, part), files))
    return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches])


def group_size(tasks: int) -> int:
    """Tasks whose files are merged into one; 1 where there are few."""
    return max(1, -(-tasks // MOST))


def num_groups(tasks: int) -> int:
    """Files that `tasks` tasks leave when they are merged."""
    return -(-tasks // group_size(tasks))


def merge(folder: Folder, name: str, group: int, tasks: int) -> int:
    """Merge the files of one group of `tasks` tasks, partition by partition in task order, and remove them; returns bytes."""
    import pyarrow as pa

    size, merged = group_size(tasks), _file(_merged(name), group)
    files = [_file(name, task) for task in range(group * size, min((group + 1) * size, tasks))]
    # it appears at once: where it is and some of them are not, an earlier try was on its way to remove them; where all are, it
    # is of an earlier pass, maybe of other rows or in other partitions
    if all(folder.exists(file) for file in files) or not folder.exists(merged):
        with _here(folder, files) as paths, folder.writing(merged) as path, pa.OSFile(str(path), "wb") as sink:
            readers = [pa.ipc.open_file(pa.memory_map(each)) for each in paths]
            with pa.ipc.new_file(sink, readers[0].schema) as writer:
                for part in range(readers[0].num_record_batches):
                    table = pa.Table.from_batches([reader.get_batch(part) for reader in readers]).combine_chunks()
                    writer.write_batch((table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)])[0])
    for file in files:
        folder.remove(file)
    return folder.size(merged)


@contextmanager
def _here(folder: Folder, files: list[str]) -> Iterator[list[str]]:
    """Local paths of files; those of a bucket are copied, each in one read."""
    if folder.is_local:
        yield [folder.path(file) for file in files]
        return
    with tempfile.TemporaryDirectory(prefix="raylm-merge-") as at, ThreadPoolExecutor(_READERS) as pool:
        paths = [f"{at}/{number}" for number in range(len(files))]
        list(pool.map(folder.fetch, files, paths))
        yield paths


def gather_all(folder: Folder, name: str, tasks: int, part: int) -> pa.Table:
    """All rows of one partition of all `tasks` tasks, in task order; of many tasks from their merged files."""
    merged = group_size(tasks) > 1
    return gather(folder, _merged(name) if merged else name, range(num_groups(tasks)), part)


def _merged(name: str) -> str:
    return f"{name}-merged"


def _batch(folder: Folder, file: str, part: int) -> pa.RecordBatch:
    import pyarrow as pa

    if folder.is_local:
        return pa.ipc.open_file(pa.memory_map(folder.path(file))).get_batch(part)
    import fsspec

    fs, inner = fsspec.core.url_to_fs(folder.path(file))
    # another process wrote it, maybe after this one listed the folder
    fs.invalidate_cache()
    with fs.open(inner, "rb", block_size=_REMOTE_BLOCK) as remote:
        return pa.ipc.open_file(pa.PythonFile(remote, mode="r")).get_batch(part)


def _file(name: str, task: int) -> str:
    return f"{name}-{task:06d}.arrow"
