"""Lists in files: remarks, compression, addresses; what cannot be read says so."""

import gzip

import pytest

from raylm.core.errors import DataError, StorageError
from raylm.prepare.lists import absolute, lines_of, parted


@pytest.mark.parametrize("packed", [False, True])
def test_lines(tmp_path, packed):
    text = "\ufeff one \n# remark\n\ntwo words # said\r\nthree#3\n".encode()
    path = tmp_path / "list"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert lines_of(str(path)) == ["one", "two words", "three#3"]


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a.txt") == str(tmp_path / "a.txt") and absolute("/a.txt") == "/a.txt"
    assert absolute("s3://bucket/b/a.txt") == "s3://bucket/b/a.txt"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/a.txt") == str(tmp_path / "a.txt")
    assert parted("sub/a.txt")[0].uri == str(tmp_path / "sub") and parted("sub/a.txt")[1] == "a.txt"


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        lines_of(str(tmp_path / "none"))
    for data in (b"\xff\xfe", gzip.compress(b"word")[:-4], b"\x1f\x8b\x00"):
        (tmp_path / "list").write_bytes(data)
        with pytest.raises(DataError, match="unreadable list"):
            lines_of(str(tmp_path / "list"))
