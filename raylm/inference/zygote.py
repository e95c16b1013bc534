"""A process per machine that has imported vLLM, and forks others which begin where an import would end.

replica (a Ray actor) --spawn--> zygote --fork--> a process of its own, at the other end of a socket
                                    `-- ends with its Ray node, or when nobody has needed it for `KEEP_S`

A first start is imports once instead of twice (server, and engine core, which it forks), every further one has none; what was
imported lies in memory once for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import PlacementError

KEEP_S = 300.0
"""Seconds that it stays without anybody who holds a lease: an endpoint that was scaled to zero starts fast again."""
STEADY = ("VLLM_", "OMP_", "MKL_", "KMP_", "LD_", "TORCH", "HF_", "PYTHON", "NCCL_")
"""Beginnings of environment variables that are read at import: processes that differ in them share none."""
PR_SET_PDEATHSIG = 1


class Child(NamedTuple):
    """A process that the zygote has forked."""

    pid: int
    channel: socket.socket
    """Its other end is in that process; end of file there says that this process has ended, and here that that one has."""
    lease: socket.socket
    """The zygote stays for as long as this is open."""


def spawn(entry: str, imports: Sequence[str], owner: int, timeout_s: float = 600.0) -> Child:
    """Fork a process that calls `entry` with its end of a socket. Blocks until the imports are done, where they are not yet.

    Its environment, working directory, standard output and error are those of the caller.

    Args:
        entry: "package.module:function".
        imports: modules that the zygote has imported; a module that this machine lacks is passed over.
        owner: pid of a process (Ray's of this node) whose end ends the zygote.

    Raises:
        PlacementError: there is none within `timeout_s`, or it ended.
    """
    until = time.monotonic() + timeout_s
    ours, theirs = socket.socketpair()
    asked = json.dumps({"entry": entry, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with theirs:
        lease = _lease(_place(imports, owner), imports, owner, until)
        lease.settimeout(max(0.1, until - time.monotonic()))
        try:
            socket.send_fds(lease, [len(asked).to_bytes(8, "big")], [theirs.fileno(), 1, 2])
            lease.sendall(asked)
            pid = int.from_bytes(_exactly(lease, 8), "big")
        except (OSError, EOFError) as cause:
            raise PlacementError(
                f"the process that starts engines here ended: {cause}", next="its output is in the replica's log"
            ) from cause
    return Child(pid, ours, lease)


def die_with(parent: int) -> None:
    """End this process when the thread that forked it ends, however that is. Linux alone; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _place(imports: Sequence[str], owner: int) -> Path:
    """Where the zygote for processes like this one listens, in a folder that only this user can enter."""
    folder = Path(tempfile.gettempdir()) / f"raylm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PlacementError(
            "this folder is open to others", where=str(folder), next="remove it, or set TMPDIR to one of your own"
        )
    steady = sorted((name, value) for name, value in os.environ.items() if name.startswith(STEADY))
    alike = json.dumps([owner, sys.executable, sys.path, list(imports), steady])
    return folder / f"zygote-{hashlib.sha256(alike.encode()).hexdigest()[:16]}"


def _lease(place: Path, imports: Sequence[str], owner: int, until: float) -> socket.socket:
    """A connection to the zygote, which is started where there is none: one by one, that there is never a second."""
    with open(place.with_suffix(".lock"), "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise _late() from None
                time.sleep(0.05)
        lease = _connected(place)
        if lease is None:
            ready, wrote = os.pipe()
            arguments = [sys.executable, "-m", __name__, str(place), str(owner), str(wrote), *imports]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            # a grandchild: Ray ends the children of a worker with it
            subprocess.run(arguments, env=environment, pass_fds=[wrote], stdin=subprocess.DEVNULL, check=False)
            os.close(wrote)
            with open(ready, "rb") as said:
                told = select.select([said], [], [], max(0.0, until - time.monotonic()))[0] and said.read(1)
            if not told or (lease := _connected(place)) is None:
                raise _late()
    return lease


def _late() -> PlacementError:
    return PlacementError("vLLM's imports did not end in time, or failed", next="the replica's log says why")


def _connected(place: Path) -> socket.socket | None:
    lease = socket.socket(socket.AF_UNIX)
    try:
        lease.connect(str(place))
    except OSError:
        lease.close()
        return None
    return lease


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        if not (part := connection.recv(size - len(parts))):
            raise EOFError("the connection was closed")
        parts += part
    return parts


def main(place: str, owner: str, wrote: str, *imports: str) -> None:
    """Import, then fork for whoever asks."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with socket.socket(socket.AF_UNIX) as listener:
        Path(place).unlink(missing_ok=True)
        listener.bind(place)
        for name in imports:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        listener.listen()
        os.write(int(wrote), b"1")
        os.close(int(wrote))
        _serve(listener, int(owner))
        Path(place).unlink(missing_ok=True)


def _serve(listener: socket.socket, owner: int) -> None:
    """Until the owner has ended, or nobody has held a lease for `KEEP_S`."""
    leases: set[socket.socket] = set()
    try:
        owned = os.pidfd_open(owner)
    except OSError:
        return
    last = time.monotonic()
    while leases or time.monotonic() < last + KEEP_S:
        readable: list[Any] = select.select([listener, owned, *leases], [], [], 5.0)[0]
        if owned in readable:
            return
        if listener in readable:
            leases.add(listener.accept()[0])
        for lease in leases & set(readable):
            if not _answered(lease, [listener, *leases], owned):
                leases.remove(lease)
                lease.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        last = time.monotonic() if leases else last


def _answered(lease: socket.socket, sockets: list[socket.socket], owned: int) -> bool:
    """Fork for one who asks; False when that one has left."""
    try:
        size, files, _, _ = socket.recv_fds(lease, 8, 3)
        if len(size) < 8:
            return False
        asked = json.loads(_exactly(lease, int.from_bytes(size, "big")))
    except (OSError, EOFError):
        return False
    pid = os.fork()
    if not pid:
        for each in sockets:
            each.close()
        os.close(owned)
        _begin(asked, files)
    for file in files:
        os.close(file)
    with contextlib.suppress(OSError):
        lease.sendall(pid.to_bytes(8, "big"))
    return True


def _begin(asked: dict[str, Any], files: list[int]) -> None:
    """In the forked process: become what was asked for, and end with it."""
    status = 1
    try:
        channel, out, err = files
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        module, _, name = asked["entry"].partition(":")
        getattr(importlib.import_module(module), name)(socket.socket(fileno=channel))
        status = 0
    finally:
        # the zygote's own loop must not go on here, whatever was raised
        if error := sys.exception():
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
