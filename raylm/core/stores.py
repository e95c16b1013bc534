"""fsspec filesystems whose errors become StorageErrors, and which report a long wait for an answer."""

from __future__ import annotations

import errno
import logging
import sys
import threading
from collections.abc import Callable
from textwrap import shorten
from types import TracebackType
from typing import Any

from raylm.core.errors import RaylmError, StorageError

NOTICE_AFTER_S = 3.0

_ACCESS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for a store that is not Amazon's), "
    "and check the bucket's name and the network",
    "gs": "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS, "
    "and check the bucket's name and the network",
    "hf": "check the repository's name and the network; run `hf auth login` for a private one",
}
_ALIASES = {"s3a": "s3", "gcs": "gs"}

# packages of addresses whose driver is not always there
_DRIVERS = {"abfs": "adlfs", "az": "adlfs", "adl": "adlfs", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol"}

# stores that have answered this process: later waits there are for data, not for a connection
_ANSWERED: set[str] = set()


class Store:
    """The filesystem of one address; its methods are those of fsspec.

    Args:
        uri: the address that errors name.

    Raises:
        StorageError: this kind of address is unknown or has no driver, the store cannot be reached or refuses.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        with StoreCall(uri, asks=False):
            from fsspec.core import url_to_fs

            # it logs the traceback of what it raises as well; a handler of the user's own still gets that
            logging.getLogger("gcsfs").addHandler(logging.NullHandler())
            self._fs: Any = url_to_fs(uri)[0]

    def fresh(self) -> Store:
        """This filesystem, without what it remembers of listings. Asks nobody."""
        self._fs.invalidate_cache()
        return self

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file if none of that name is there, in one step where the store can do that (S3 and GCS can);
        whether it was written."""
        with StoreCall(self._uri):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError):
                return self._create_plainly(path, data)
            except OSError as cause:
                # stores beside Amazon's say it without the word by which s3fs knows it, or in a race as a conflict
                if (status := _http_status(cause)) in (409, 412):
                    return False
                if status != 501:
                    raise
                return self._create_plainly(path, data)
        return True

    def _create_plainly(self, path: str, data: bytes) -> bool:
        """In two steps: of two callers at once both may write."""
        if self._fs.exists(path):
            return False
        self._fs.pipe_file(path, data)
        return True

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        if not callable(found):
            return found
        method: Callable[..., Any] = found

        def spoken(*args: Any, **options: Any) -> Any:
            with StoreCall(self._uri):
                return method(*args, **options)

        return spoken


class StoreCall:
    """Context of a call into a store's library: its errors become StorageErrors that name `uri`, and a long wait for the first
    answer is reported. Libraries retry for up to a minute where no server answers.

    Args:
        asks: whether a successful call means that the store has answered.
    """

    def __init__(self, uri: str, *, asks: bool = True) -> None:
        self._uri, self._asks = uri, asks
        self._store = "/".join(uri.split("/")[:3])
        self._timer: threading.Timer | None = None

    def __enter__(self) -> StoreCall:
        if self._store not in _ANSWERED:
            self._timer = threading.Timer(NOTICE_AFTER_S, self._say)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error is None and self._asks:
            _ANSWERED.add(self._store)
        elif isinstance(error, Exception) and not isinstance(error, RaylmError):
            # no cause: these libraries' own chains are pages long, and their message is part of ours
            raise _in_words(error, self._uri) from None

    def _say(self) -> None:
        print(f"waiting for {self._store} to answer; its library tries for up to a minute (Ctrl-C ends)", file=sys.stderr)


def _in_words(error: Exception, uri: str) -> StorageError:
    scheme = uri.split("://", maxsplit=1)[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        # of what is fetched: no store says that of itself
        return StorageError(
            "this machine's disk is full; what was being copied here is not kept",
            where=uri,
            next="free space, or set TMPDIR to a larger disk, then run the same command: finished parts are kept",
        )
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return StorageError(
            f"{scheme}:// is no kind of address that can be read",
            where=uri,
            next="name a folder, or s3://, gs://, hf:// or another that fsspec knows",
        )
    if isinstance(error, ImportError):
        package = _DRIVERS.get(scheme)
        return StorageError(
            f"no driver for {scheme}:// is installed: {_sentence(error)}",
            where=uri,
            next=f"uv pip install {package}"
            if package
            else "install the package it names, or `make install` for s3:// and gs://",
        )
    access = _ACCESS.get(_ALIASES.get(scheme, scheme), "check the address, the network and your access to it")
    if isinstance(error, FileNotFoundError):
        return StorageError(f"no such file or bucket: {_sentence(error)}", where=uri, next=access)
    if isinstance(error, NotImplementedError):
        return StorageError(f"{scheme}:// cannot do this: {_sentence(error)}", where=uri, next="name a folder, or s3:// or gs://")
    return StorageError(f"cannot be read or written: {_sentence(error)}", where=uri, next=access)


def _http_status(error: Exception) -> int | None:
    """What the server of an S3 store answered; None where it did not."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode")


def _sentence(error: Exception) -> str:
    """What `error` says in one line; its class too where that says more than the line."""
    line = shorten(str(error), 300, placeholder=" ...")
    named = isinstance(error, (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError))
    return f"{type(error).__name__}: {line}".rstrip(": ") if named or not line else line
