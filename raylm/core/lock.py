"""A lock on a job's folder: two runs of one job must not write into each other.

On a disk it is flock's, which dies with its process. In a bucket it is a lease, a small object that its holder rewrites:

    .lock-000003  <- holder, every BEAT_S         a second run: rewritten while it looks? -> refused, with who holds it
                                                                not for LEASE_S?          -> creates .lock-000004, and has it

A lease is created only if no object of that name is there (If-None-Match), so that one of two wins. The older holder, should it
live after all, sees the newer object at its next beat and ends. No clocks are compared: a run judges by what it sees itself.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from raylm.core.errors import PlanError, RaylmError, StorageError
from raylm.core.storage import Folder

BEAT_S = 5.0
LEASE_S = 30.0
"""Seconds without a beat after which a lease is nobody's."""
TRIES = 20
"""Times that a lease is tried for that others took first."""
ENDED = 75
"""Exit status of a run that lost its lease (EX_TEMPFAIL)."""
_HELD: list[Any] = []
"""Leases of this process."""
_LEASE = re.compile(r"\.lock-(\d{6})$")


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """The lock of a job's folder.

    Raises:
        PlanError: another run holds it.
    """
    if folder.is_local:
        with _on_disk(folder):
            yield
        return
    lease = Lease(folder)
    lease.take()
    _HELD.append(lease)
    try:
        yield
    finally:
        _HELD.remove(lease)
        lease.give_back()


def check(folder: Folder) -> None:
    """Before what cannot be taken back (a manifest, a folder that is removed): whether the lease over `folder` is still this
    process's. One that was cut off, or stopped for a while, may not know yet that another run has it; this process ends then.

    Raises:
        StorageError: the store does not say.
    """
    for lease in _HELD:
        if lease.covers(folder):
            lease.check()


@contextlib.contextmanager
def _on_disk(folder: Folder) -> Iterator[None]:
    import fcntl

    with open(folder.make().path(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise PlanError("another run of this job is going on", where=folder.uri, next="wait for it, or stop it") from cause
        yield


class Lease:
    """The lease of a job's folder in a bucket, kept by a thread.

    Args:
        lost: called when another run has taken it over; by default this process ends at once, for that run writes now.
    """

    def __init__(
        self, folder: Folder, beat_s: float = BEAT_S, lease_s: float = LEASE_S, lost: Callable[[str], None] | None = None
    ) -> None:
        self._folder, self._beat_s, self._lease_s, self._lost = folder, beat_s, lease_s, lost or self._end
        self._me = {
            "run": uuid.uuid4().hex,
            "who": f"{getpass.getuser()} on {socket.gethostname()}",
            "process": _process(os.getpid()),
        }
        self._number, self._beats, self._over = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._keep, name="raylm-lease", daemon=True)

    def take(self) -> None:
        """Have it, after the holder of before is known to be dead.

        Raises:
            PlanError: another run holds it.
        """
        for _ in range(TRIES):
            newest = max(self._numbers(), default=0)
            if newest and (holder := self._held(newest)):
                self._wait_for_death(newest, holder)
            self._number = newest + 1
            # an answer that was lost on its way is asked for again, and then the object is there: ours
            if self._folder.create(_name(self._number), self._told()) or self._is_mine():
                break
        else:
            raise StorageError(
                f"it has {_name(self._number)} and does not list it, {TRIES} times",
                where=self._folder.uri,
                next="a root whose listings are up to date, such as s3:// or gs://",
            )
        for number in self._numbers():
            if number < self._number:
                self._folder.remove(_name(number))
        self._thread.start()

    def covers(self, folder: Folder) -> bool:
        """Whether a folder is the job's, or within it."""
        return f"{folder.uri.rstrip('/')}/".startswith(f"{self._folder.uri.rstrip('/')}/")

    def check(self) -> None:
        """Call `lost` where another run has it. Raises StorageError where the store does not say."""
        if not self._is_mine():
            self._lost(f"another run has taken over {self._folder.uri}: this one was silent for too long")

    def give_back(self) -> None:
        """End it; the next run need not wait."""
        self._over.set()
        self._thread.join(self._lease_s)
        # a store that is away says so where it matters; the lease expires by itself
        with contextlib.suppress(StorageError):
            if self._is_mine():
                self._folder.remove(_name(self._number))

    def _wait_for_death(self, number: int, holder: dict[str, Any]) -> None:
        """Return when a lease has not been renewed for its time. Raises PlanError when it is renewed."""
        who = f"{holder['who']}, since {holder['since']} UTC"
        if _is_dead(holder["process"]):
            return
        print(
            f"  a run of this job holds {self._folder.uri} ({who}): up to {self._lease_s:.0f} s to see whether it is alive",
            file=sys.stderr,
            flush=True,
        )
        until = time.monotonic() + self._lease_s
        while time.monotonic() < until:
            time.sleep(min(1.0, self._beat_s / 2))
            now = self._held(number)
            if now is None:
                return  # given back
            if now["beats"] != holder["beats"]:
                raise PlanError(
                    f"another run of this job is going on: {who}", where=self._folder.uri, next="wait for it, or stop it there"
                )

    def _keep(self) -> None:
        while not self._over.wait(self._beat_s):
            try:
                if not self._is_mine():
                    return self._lost(f"another run has taken over {self._folder.uri}: this one was silent for too long")
                self._beats += 1
                self._folder.write(_name(self._number), self._told())
            except (RaylmError, OSError, ValueError, LookupError, RuntimeError) as cause:
                # a store that is away for a moment is no reason to end: nobody else can write there either. Nor is a fault of
                # this machine (no file can be opened): a thread that ended here would not see that another run has it
                why = cause.what if isinstance(cause, RaylmError) else f"{type(cause).__name__}: {cause}"
                print(f"  the lock of {self._folder.uri} could not be renewed: {why}", file=sys.stderr, flush=True)
        return None

    def _is_mine(self) -> bool:
        if max(self._numbers(), default=0) != self._number:
            return False
        there = self._held(self._number)
        return there is not None and there["run"] == self._me["run"]

    def _numbers(self) -> list[int]:
        return [int(found[1]) for name in self._folder.names() if (found := _LEASE.fullmatch(name))]

    def _held(self, number: int) -> dict[str, Any] | None:
        try:
            return self._folder.read_json(_name(number))
        except StorageError:
            if self._folder.exists(_name(number)):
                raise
            return None

    def _told(self) -> str:
        since = getattr(self, "_since", None) or time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self._since = since
        return json.dumps({**self._me, "since": since, "beats": self._beats})

    def _end(self, why: str) -> None:
        print(f"error: {why}\n  next: the same command again, when that run has ended", file=sys.stderr, flush=True)
        os._exit(ENDED)


def _name(number: int) -> str:
    return f".lock-{number:06d}"


def _process(pid: int) -> str:
    """A name of this process that no other one has had or will have, on any machine; "" where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {_began(pid)}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" where there is none with that id."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_dead(process: str) -> bool:
    """Whether the process is one of this machine, and gone."""
    parts = process.rsplit(" ", 2)
    mine = _process(os.getpid()).rsplit(" ", 2)
    return len(parts) == 3 and parts[0] == mine[0] and _began(int(parts[1])) != parts[2]
