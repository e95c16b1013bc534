"""Copies of a bucket's shards: fetched once for all readers, never more bytes than they may hold, whole for who maps them."""

from __future__ import annotations

import hashlib
import mmap
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.artifact import FileEntry
from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.data.shard_cache import ShardCache
from raylm.data.shards import Rows, map_arrow, write_arrow


@pytest.fixture
def bucket(tmp_path):
    """A folder that is read like a bucket: behind a URI."""
    folder = Folder(f"memory://shards-{os.getpid()}-{tmp_path.name}")
    for at in range(6):
        folder.write(f"s{at}", bytes([at]) * 1000)
    return folder


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def digest_of(number: int) -> str:
    """Of shard `number` as the fixtures write it."""
    return hashlib.blake2b(bytes([number]) * 1000, digest_size=16).hexdigest()


def copies(at: Path) -> list[Path]:
    return [path for path in at.glob("*") if not path.name.startswith(".")]


def test_copies_never_hold_more_than_they_may_and_the_oldest_goes(bucket, tmp_path):
    cache, held = ShardCache(tmp_path / "cache", limit=3500), {}
    for at in range(6):
        held[at] = cache.mapped(bucket, f"s{at}", digest_of(at), mapped)
        assert sum(path.stat().st_size for path in copies(tmp_path / "cache")) <= 3500
        time.sleep(0.01)
        # the first one is read again and again: it stays
        assert cache.mapped(bucket, "s0", digest_of(0), mapped)[:2] == b"\0\0"
    # one that went is whole for who has it mapped
    assert all(held[at][:] == bytes([at]) * 1000 for at in range(6))
    bucket.write("s0", b"x" * 1000)
    assert cache.mapped(bucket, "s0", digest_of(0), mapped)[:1] == b"\0", "it was fetched again"
    assert cache.mapped(bucket, "s0", bucket.digest("s0"), mapped)[:1] == b"x"
    bucket.write("s1", b"y" * 1000)
    assert cache.mapped(bucket, "s1", "", mapped)[:1] == b"y"


def test_a_shard_that_was_rewritten_is_not_kept_as_the_one_that_was_asked_for(bucket, tmp_path):
    # the reader has the manifest of before: a copy under its digest would be read for it in every run to come
    cache, before = ShardCache(tmp_path / "cache"), digest_of(0)
    bucket.write("s0", b"x" * 1000)
    with pytest.raises(StorageError, match="other bytes than its manifest says"):
        cache.mapped(bucket, "s0", before, mapped)
    assert copies(tmp_path / "cache") == []
    bucket.write("s0", bytes(1000))
    assert cache.mapped(bucket, "s0", before, mapped)[:] == bytes(1000)


def test_what_came_in_part_is_not_left_on_the_disk(tmp_path):
    class Breaking(Folder):
        def fetch(self, name, to):
            Path(to).write_bytes(b"half")
            raise StorageError("the disk is full", where=to)

    with pytest.raises(StorageError, match="the disk is full"):
        ShardCache(tmp_path / "cache").mapped(Breaking("memory://half"), "s0", "d", mapped)
    assert copies(tmp_path / "cache") == []


def test_a_shard_that_is_larger_than_the_room_is_read_all_the_same(bucket, tmp_path):
    cache = ShardCache(tmp_path / "cache", limit=10)
    for at in (0, 1, 0):
        assert cache.mapped(bucket, f"s{at}", digest_of(at), mapped)[:1] == bytes([at])
        assert len(copies(tmp_path / "cache")) == 1


def read_all(at: str, uri: str, reads: list[int], out: str) -> None:
    cache = ShardCache(Path(at), limit=2500)
    for number in reads:
        assert cache.mapped(Folder(uri), f"s{number}", digest_of(number), mapped)[:] == bytes([number]) * 1000
    Path(out).touch()


def test_many_readers_at_once_find_whole_shards(tmp_path):
    folder = Folder(tmp_path / "shards").make()
    for at in range(6):
        folder.write(f"s{at}", bytes([at]) * 1000)
    draw = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    readers = [
        context.Process(
            target=read_all, args=(str(tmp_path / "cache"), folder.uri, draw.integers(0, 6, 60).tolist(), f"{tmp_path}/ok{at}")
        )
        for at in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert len(list(tmp_path.glob("ok*"))) == 4


def test_rows_of_a_bucket_are_read_through_the_cache(tmp_path, monkeypatch):
    folder = Folder(f"memory://rows-{os.getpid()}-{tmp_path.name}")
    entries = []
    for at in range(5):
        table = pa.table({"tokens": [[at, row] for row in range(4)]})
        name = f"train-{at:05d}.arrow"
        size = write_arrow(folder, name, table)
        entries.append(FileEntry(path=name, bytes=size, rows=4, digest=folder.digest(name)))
    rows = Rows(folder, "train", entries)
    small = ShardCache(tmp_path / "cache", limit=2 * entries[0].bytes)
    monkeypatch.setattr(rows, "_cache", small)
    assert rows._most_mapped() == 1
    order = np.random.default_rng(1).permutation(20)
    assert [rows[int(at)]["tokens"].tolist() for at in order] == [[at // 4, at % 4] for at in order.tolist()]
    assert len(copies(tmp_path / "cache")) == 2
    assert small.mapped(folder, entries[0].path, entries[0].digest, map_arrow).num_rows == 4


@pytest.mark.parametrize("how", ["open to others", "a link"])
def test_a_folder_that_others_may_write_to_is_not_trusted(bucket, tmp_path, how):
    at = tmp_path / "cache"
    if how == "a link":
        (tmp_path / "theirs").mkdir()
        at.symlink_to(tmp_path / "theirs")
    else:
        at.mkdir()
        at.chmod(0o777)
    with pytest.raises(StorageError, match="others can write to this folder"):
        ShardCache(at).mapped(bucket, "s0", digest_of(0), mapped)
