"""Stores: any error of a store's library becomes one sentence that names the address, and a long wait is reported."""

from __future__ import annotations

import errno
import time
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raylm.cli import main
from raylm.core import stores
from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.core.stores import Store
from tests.test_job import write

RAISED = {
    "type": TypeError("got an unexpected keyword"),
    "key": KeyError("endpoint"),
    "empty": TimeoutError(),
    "lines": ValueError("Parameter validation failed:\nInvalid bucket name"),
    "bucket": FileNotFoundError("The specified bucket does not exist"),
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "readonly": NotImplementedError("_put_file"),
}


class Breaking(fsspec.AbstractFileSystem):
    """Raises what the name of the store asks for."""

    cachable = False

    def __init__(self, host="", **options):
        super().__init__(**options)
        self.error = RAISED.get(host)

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"host": path.split("/")[2]}

    def _fail(self, *_, **__):
        time.sleep(0.05)
        if self.error:
            raise self.error
        raise ConnectionResetError("reset by peer")

    exists = find = size = put_file = cat_file = get = get_file = cp_file = rm = open = info = ls = _fail


@pytest.fixture(autouse=True)
def breaking(monkeypatch):
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    monkeypatch.setattr(stores, "_ANSWERED", set())


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("type", "cannot be read or written: TypeError: got an unexpected keyword"),
        ("key", "cannot be read or written: KeyError: 'endpoint'"),
        ("empty", "cannot be read or written: TimeoutError"),
        ("lines", "cannot be read or written: Parameter validation failed: Invalid bucket name"),
        ("bucket", "no such file or bucket: The specified bucket does not exist"),
        ("readonly", "breaking:// cannot do this: NotImplementedError: _put_file"),
        ("other", "cannot be read or written: reset by peer"),
    ],
)
@pytest.mark.parametrize(
    "call", ["exists", "files", "size", "read", "write", "local", "remove", "digest", "link"], ids=lambda call: call
)
def test_everything_that_a_library_raises_becomes_one_sentence(host, said, call):
    folder = Folder(f"breaking://{host}/runs")
    arguments = {"files": (), "write": ("a", b"1"), "link": ("a", folder / "b")}.get(call, ("a",))
    with pytest.raises(StorageError) as caught:
        getattr(folder, call)(*arguments)
    if (host, call) == ("bucket", "read"):
        said = "no such file"
    assert str(caught.value).splitlines()[0].startswith(f"breaking://{host}/runs")
    assert said in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nosuch://a/b", "nosuch:// is no kind of address"),
        ("ftp://127.0.0.1:1/x", "Connection refused"),
        ("http://127.0.0.1:1/x", "Cannot connect to host 127.0.0.1:1"),
        ("s3://nope/x", "Unable to locate credentials\n  next: set AWS_ACCESS_KEY_ID"),
        ("breaking://key/x", "KeyError: 'endpoint'"),
    ],
)
def test_show_plan_and_run_say_it_and_exit_with_1(uri, said, tmp_path, monkeypatch, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    job = write(tmp_path, lambda text: text.replace(f'root = "{tmp_path}"', f'root = "{uri}"'))
    for words in (["show", uri], ["plan", str(job)], ["run", str(job)], ["chat", uri + "y"]):
        if words[0] == "chat" and uri.startswith("http"):
            continue
        assert main(words) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"error: {uri}")
        assert said in told
        assert "Traceback" not in told


def test_a_long_wait_for_the_first_answer_is_reported_once(monkeypatch, capsys):
    monkeypatch.setattr(stores, "NOTICE_AFTER_S", 0.01)
    with pytest.raises(StorageError):
        Folder("breaking://type/a").exists()
    assert capsys.readouterr().err == (
        "waiting for breaking://type to answer; its library tries for up to a minute (Ctrl-C ends)\n"
    )
    with stores.StoreCall("breaking://type/a"):
        pass
    with stores.StoreCall("breaking://type/b"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def _answered(status: int, code: str) -> OSError:
    """What s3fs raises for an answer of an S3 server."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "PutObject"))


class Other(MemoryFileSystem):
    """A store beside Amazon's: how it answers a write that must not replace anything."""

    cachable, answer = False, OSError()

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create":
            raise self.answer
        super().pipe_file(path, value, mode, **kwargs)


@pytest.mark.parametrize(
    ("status", "code", "written"),
    [(412, "PreconditionFailed", False), (409, "ConditionalRequestConflict", False), (501, "NotImplemented", True)],
)
def test_stores_that_know_no_conditions_or_say_them_otherwise_are_written_once_all_the_same(status, code, written, tmp_path):
    folder = Folder(f"memory://{tmp_path.name}")
    store = Store(folder.uri)
    store._fs = Other()
    store._fs.answer = _answered(status, code)
    assert store.create(f"/{tmp_path.name}/x", b"one") is written
    assert folder.exists("x") is written
    if written:
        assert not store.create(f"/{tmp_path.name}/x", b"two") and folder.read("x") == b"one"
    store._fs.answer = _answered(403, "AccessDenied")
    with pytest.raises(StorageError, match="cannot be read or written"):
        store.create(f"/{tmp_path.name}/y", b"one")


def test_a_full_disk_of_this_machine_is_no_fault_of_the_store(tmp_path):
    with pytest.raises(StorageError, match=r"breaking://full: this machine's disk is full.*\n  next: free space, or set TMPDIR"):
        Folder("breaking://full").fetch("x", str(tmp_path / "x"))
