"""Folders: files appear whole or not at all, on disks and in object stores alike."""

import errno
import os

import pytest

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from tests.buckets import local_bucket


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """A folder on a disk, and one in fsspec's in-memory store, which stands for any bucket."""
    made = Folder(tmp_path / "a") if request.param == "disk" else Folder(f"memory://{tmp_path.name}/a")
    yield made
    made.remove()


def test_writes_reads_lists_and_removes(folder):
    folder.write("one.txt", "1")
    folder.write_json("deep/two.json", {"b": 2})
    assert folder.files() == ["deep/two.json", "one.txt"]
    assert folder.read("one.txt") == b"1"
    assert folder.read_json("deep/two.json") == {"b": 2}
    assert folder.size("one.txt") == 1
    assert (folder / "deep").read_json("two.json") == {"b": 2}
    assert folder.local("one.txt").read_bytes() == b"1"
    folder.remove("deep")
    assert folder.files() == ["one.txt"]
    assert not folder.exists("deep/two.json")


def test_equal_bytes_have_equal_digests(folder):
    folder.write("a", b"x" * 3_000_000)
    folder.write("b", b"x" * 3_000_000)
    folder.write("c", b"y")
    assert folder.digest("a") == folder.digest("b") != folder.digest("c")


def test_a_local_copy_follows_its_source(folder):
    folder.write("tokenizer/vocab", "old")
    folder.write("manifest.json", "{}")
    assert (folder.local("tokenizer") / "vocab").read_text() == "old"
    folder.write("tokenizer/vocab", "new")
    folder.write("manifest.json", '{"rebuilt": true}')
    assert (folder.local("tokenizer") / "vocab").read_text() == "new"


def test_processes_that_fetch_one_folder_at_once_share_one_copy(tmp_path, monkeypatch):
    import multiprocessing
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Folder(f"memory://{tmp_path.name}/many")
    for number in range(40):
        folder.write(f"model/{number}", bytes(20_000))
    # a process that was killed while it fetched leaves a part
    cache = folder.local("model").parent
    (at,) = (path for path in cache.iterdir() if path.is_dir())
    at.rename(at.with_suffix(".part"))
    # a forked process has the in-memory store of this one
    forked = multiprocessing.get_context("fork")
    together, found = forked.Barrier(4), forked.Queue()

    def fetch() -> None:
        together.wait()
        found.put(sorted(path.name for path in folder.local("model").iterdir()))

    processes = [forked.Process(target=fetch) for _ in range(4)]
    for process in processes:
        process.start()
    names = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert names == [sorted(map(str, range(40)))] * 4
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]
    folder.remove()


def test_what_a_killed_writer_left_is_no_file(tmp_path):
    (tmp_path / ".writing-x").write_text("half")
    assert Folder(tmp_path).files() == []


def test_a_missing_file_is_reported(folder):
    with pytest.raises(StorageError, match="no such file"):
        folder.read("none")


def test_a_write_that_fails_leaves_nothing(folder):
    folder.write("kept", "old")
    with pytest.raises(RuntimeError), folder.writing("kept") as path:
        path.write_text("half")
        raise RuntimeError
    assert folder.read("kept") == b"old"
    assert folder.files() == ["kept"]


def test_a_full_disk_is_a_storage_error(tmp_path):
    folder = Folder(tmp_path)
    with pytest.raises(StorageError, match="disk is full") as caught, folder.writing("big"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "same command" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_really_full_device_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="disk is full"), Folder(tmp_path).writing("big"), open("/dev/full", "w") as full:
        full.write("x" * 100_000)
        full.flush()
    assert os.listdir(tmp_path) == []


def test_what_other_processes_write_to_a_bucket_is_seen_after_it_was_listed():
    with local_bucket("seen") as client:
        folder = Folder("s3://seen/work")
        folder.write("a", "1")
        assert folder.files() == ["a"]
        # by another process, which this one's listing does not know
        client.put_object(Bucket="seen", Key="work/b", Body=b"22")
        assert folder.exists("b") and folder.size("b") == 2
        assert folder.files() == ["a", "b"]
        before = folder.version("b")
        client.put_object(Bucket="seen", Key="work/b", Body=b"333")
        assert folder.version("b") != before and folder.size("b") == 3
        client.put_object(Bucket="seen", Key="work/c", Body=b"4")
        folder.remove("c")
        assert not client.list_objects_v2(Bucket="seen", Prefix="work/c").get("Contents")
        client.delete_object(Bucket="seen", Key="work/a")
        assert not folder.exists("a")


def test_copies_lie_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Folder(f"memory://{tmp_path.name}/own")
    folder.write("a", "1")
    assert folder.local("a").read_text() == "1"
    (cache,) = tmp_path.iterdir()
    cache.chmod(0o777)
    with pytest.raises(StorageError, match="others can write"):
        folder.local("a")
