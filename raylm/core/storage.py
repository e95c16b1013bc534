"""Folders on disks and in object stores (any fsspec URI), whose files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raylm.core.errors import StorageError
from raylm.core.stores import Store, StoreCall

HALF_WRITTEN = ".writing-"


class Folder:
    """A folder on a disk or in a bucket. Local folders cost no fsspec import.

    Args:
        uri: a path, or a URI such as `s3://bucket/folder` or `gs://bucket/folder`.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri).removeprefix("file://")
        self.uri = text if "://" in text else os.path.abspath(text)
        self.is_local = "://" not in text

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.uri.rstrip("/"))

    def path(self, name: str = "") -> str:
        """Full path or URI of `name` inside this folder."""
        return f"{self.uri.rstrip('/')}/{name}" if name else self.uri

    def make(self) -> Folder:
        """Create the folder. Raises StorageError when that is not allowed or the disk is full."""
        if self.is_local:
            with _storage_errors(self.uri):
                os.makedirs(self.uri, exist_ok=True)
        return self

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder `name` is there."""
        if self.is_local:
            return os.path.exists(self.path(name))
        # fsspec's HTTP answers "no" where no server answers, unless it is strict
        strict = {"strict": True} if self.uri.startswith(("http://", "https://")) else {}
        return bool(self._fresh.exists(self.path(name), **strict))

    def files(self) -> list[str]:
        """Relative names of all files below, sorted; what a killed writer left half-written is no file."""
        if self.is_local:
            found = [
                os.path.join(at, name)
                for at, _, names in os.walk(self.uri)
                for name in names
                if not name.startswith(HALF_WRITTEN)
            ]
            return sorted(os.path.relpath(path, self.uri) for path in found)
        root = self._fs._strip_protocol(self.uri).rstrip("/") + "/"
        return sorted(str(path).removeprefix(root) for path in self._fresh.find(self.uri))

    def size(self, name: str) -> int:
        """Bytes of the file `name`."""
        return os.path.getsize(self.path(name)) if self.is_local else int(self._fresh.size(self.path(name)))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write; when the block ends without an error it becomes the file `name`, in one step.

        Raises:
            StorageError: the disk is full or the folder is not writable; nothing is left behind.
        """
        target = self.path(name)
        where = os.path.dirname(target) if self.is_local else tempfile.gettempdir()
        with _storage_errors(target):
            if self.is_local:
                os.makedirs(where, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=HALF_WRITTEN, dir=where)
            os.close(handle)
            try:
                yield Path(temporary)
                if self.is_local:
                    os.chmod(temporary, 0o644)
                    os.replace(temporary, target)
                else:
                    self._fs.put_file(temporary, target)
            finally:
                if os.path.exists(temporary):
                    os.unlink(temporary)

    def write(self, name: str, content: bytes | str) -> None:
        """Write a whole small file in one step."""
        with self.writing(name) as path:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def create(self, name: str, content: str) -> bool:
        """Write a small file if there is none called `name`; whether this call wrote it. Of several callers one does."""
        if not self.is_local:
            return self._fs.create(self.path(name), content.encode())
        with _storage_errors(self.path(name)):
            try:
                handle = os.open(self.make().path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w") as file:
                file.write(content)
        return True

    def names(self) -> list[str]:
        """Names of what lies in this folder itself, sorted; none where it is not there."""
        if self.is_local:
            return sorted(os.listdir(self.uri)) if os.path.isdir(self.uri) else []
        if not self._fresh.exists(self.uri):
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self.uri, detail=False))

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON in one step."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`. Raises StorageError when it is missing or cannot be read."""
        try:
            return Path(self.path(name)).read_bytes() if self.is_local else self._fs.cat_file(self.path(name))
        except FileNotFoundError as cause:
            raise StorageError("no such file", where=self.path(name)) from cause
        except OSError as cause:
            raise StorageError(f"cannot be read: {cause.strerror}", where=self.path(name)) from cause

    def read_json(self, name: str) -> Any:
        """The file `name` as JSON."""
        return json.loads(self.read(name))

    def local(self, name: str = "") -> Path:
        """A local path with the content of `name`: itself, or a copy that is made once for each version of the content."""
        if self.is_local:
            return Path(self.path(name))
        key = f"{self.path(name)} {self.version(name)}"
        cache = Path(tempfile.gettempdir()) / f"raylm-cache-{os.getuid()}"
        at = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
        own_folder(cache)
        if not at.exists():
            with _storage_errors(str(at)), _alone(at.with_suffix(".lock")):
                self._fetch(name, at)
        return at

    def _fetch(self, name: str, at: Path) -> None:
        """Copy the file or folder `name` to `at`, which appears whole or not at all. One process at a time."""
        if at.exists():
            return  # fetched by another process while this one waited
        part = at.with_suffix(".part")
        if part.is_dir():
            shutil.rmtree(part)  # left by a process that was killed
        self._fs.get(self.path(name), str(part), recursive=True)
        os.rename(part, at)

    def fetch(self, name: str, to: str) -> None:
        """Copy the file `name` to a local path."""
        with _storage_errors(to):
            shutil.copyfile(self.path(name), to) if self.is_local else self._fs.get_file(self.path(name), to)

    def link(self, name: str, to: Folder) -> None:
        """Copy the folder `name` to `to`, a folder of the same disk or bucket; as hard links where the disk has them."""
        if self.is_local:
            with _storage_errors(to.uri):
                shutil.copytree(self.path(name), to.path(name), copy_function=_linked)
            return
        for file in (self / name).files():
            self._fs.cp_file(self.path(f"{name}/{file}"), to.path(f"{name}/{file}"))

    def remove(self, name: str = "") -> None:
        """Remove the file or folder `name`; nothing happens when it is not there."""
        path = self.path(name)
        if not self.is_local:
            if self._fresh.exists(path):
                self._fs.rm(path, recursive=True)
        elif os.path.isdir(path):
            # in one step: a half-removed folder must not look like a whole one
            gone = f"{os.path.dirname(path)}/{HALF_WRITTEN}{os.path.basename(path)}-{os.getpid()}"
            os.rename(path, gone)
            shutil.rmtree(gone)
        elif os.path.exists(path):
            os.unlink(path)

    def digest(self, name: str) -> str:
        """Hex digest (blake2b, 16 bytes) of the file `name`."""
        hashed = hashlib.blake2b(digest_size=16)
        spoken = contextlib.nullcontext() if self.is_local else StoreCall(self.uri)
        with spoken, open(self.path(name), "rb") if self.is_local else self._fs.open(self.path(name), "rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
        return hashed.hexdigest()

    def version(self, name: str) -> str:
        """What changes when the content of `name` does: the store's own marks of all its files."""
        return " ".join(str(self._fs.ukey(path)) for path in sorted(self._fresh.find(self.path(name))))

    @property
    def _fresh(self) -> Any:
        """The filesystem, without listings of before: other processes write here too, and one would hide that."""
        return Store(self.uri).fresh()

    @property
    def _fs(self) -> Any:
        return Store(self.uri)


def own_folder(at: Path) -> None:
    """Make a folder of copies, which are trusted like the bucket that they are of. Raises StorageError where somebody else may
    write to it: another user may have made it first, in a TMPDIR that all share."""
    with _storage_errors(str(at)):
        at.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(at)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(
            "others can write to this folder of copies, or made it",
            where=str(at),
            next="remove it, or set TMPDIR to a folder of your own",
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Exclusive lock of a file among the processes of this machine; the end of the process releases it, kill -9 too."""
    import fcntl

    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    """Turns errors of the disk (full, not writable) into StorageErrors."""
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                "the disk is full; what was being written has been removed",
                where=where,
                next="free space, then run the same command: finished parts are kept",
            ) from cause
        if cause.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(
                f"cannot write here: {cause.strerror}", where=where, next="set `root` to a folder you own"
            ) from cause
        raise


def _linked(source: str, target: str) -> None:
    """One file under a second name; a copy where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
