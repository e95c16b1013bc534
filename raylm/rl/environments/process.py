"""The processes in which environments run: one that forks, and its children, each with one conversation at a time.

driver --socket--> nursery (imports the environment, then only forks) --fork--> child: reset, step, step, close, reset, ...

A fork of a small process without threads takes milliseconds, so each conversation has a process to itself that can be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import glob
import inspect
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import RaylmError
from raylm.rl.environments.environment import messages_of, step_of
from raylm.rl.rewards.measure import in_words
from raylm.rl.rewards.process import limit_memory

FORK, KILL = b"F", b"K"


def _plain(tools: Any) -> list[dict[str, Any]]:
    return json.loads(json.dumps(list(tools)))


CHECKED = {"reset": messages_of, "step": step_of, "tools": _plain, "close": lambda _: None}
"""What is made of the answers of an environment's methods."""
PR_SET_PDEATHSIG = 1


class Failed(NamedTuple):
    """Why an environment gave no answer: `timed_out`, `died`, `raised`."""

    kind: str
    why: str


def main() -> None:
    """The nursery. argv: the descriptor of its socket, on which a pickled card comes first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends it
    control = socket.socket(fileno=int(sys.argv[1]))
    with Connection(os.dup(control.fileno())) as line:
        card = pickle.loads(line.recv_bytes())
        line.send(_ready(card))
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not order:
            return
        if order[:1] == FORK:
            pid = os.fork()
            if pid == 0:
                control.close()
                _child(card, descriptors[0])
            os.close(descriptors[0])
        else:
            pid = int(order[1:])
            _end(pid)
        control.sendall(b"%16d" % pid)


def _ready(card: Any) -> Any:
    """None, or the error why there is no environment. Somebody else's code is imported here, once for all."""
    try:
        getattr(resolve(card), "preload", lambda: None)()
    except RaylmError as cause:
        return cause
    # somebody else's code: only words leave the process
    except (Exception, SystemExit) as cause:
        return Failed("raised", f"it raised {in_words(cause)}")
    return None


def _end(pid: int) -> None:
    """Kill a child and what it has started. Only who forks may kill: as long as it has not waited for a child, no other
    process gets its number."""
    os.kill(pid, signal.SIGSTOP)  # it starts nothing more
    for other in _started_by(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _started_by(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have, on Linux: servers of tools have sessions of their own."""
    found: list[int] = []
    for file in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(file) as text:
            found += [int(child) for child in text.read().split()]
    return found + [other for child in found for other in _started_by(child)]


def _child(card: Any, descriptor: int) -> None:
    try:
        _die_with_parent()
        limit_memory()
        asyncio.run(_serve(card, Connection(descriptor)))
    finally:
        os._exit(0)  # no handlers of the nursery run a second time


async def _serve(card: Any, line: Connection) -> None:
    """Answer each call on the line until it is closed. One task for all: a client of an MCP server must be closed by the task
    that opened it."""
    environment: Any = None
    while True:
        try:
            method, argument = await asyncio.to_thread(line.recv)
        except EOFError:
            return
        try:
            if method in ("tools", "reset"):
                environment = copy.deepcopy(resolve(card))
            if method == "reset":
                argument, tools = argument
                getattr(environment, "offer", lambda _: None)(tools)
            call = getattr(environment, method)
            found = call() if argument is None else call(argument)
            answer = await found if inspect.isawaitable(found) else found
            line.send((CHECKED[method](answer), None))
        # somebody else's code: whatever it raises costs this conversation alone
        except (Exception, SystemExit, asyncio.CancelledError) as cause:
            if method == "tools" and isinstance(cause, RaylmError):
                line.send((None, cause))
                continue
            line.send((None, f"{method}: {_told(cause)}"))


def _told(cause: BaseException) -> str:
    """What was raised, and where; of several things that were raised at once, the first."""
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    where = traceback.extract_tb(cause.__traceback__)[-1:]
    return in_words(cause) + "".join(f" ({os.path.basename(place.filename)}:{place.lineno})" for place in where)


def _die_with_parent() -> None:
    """Linux ends this process with the nursery, and that ends with the driver."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
