"""The processes in which environments run: one that forks, and its children, each with one conversation at a time.

driver --socket--> nursery (imports the environment once, then only forks) --fork--> child: reset, step, step, close, reset, ...

A fork of a small process without threads takes milliseconds, so each conversation has a process to itself that can be killed.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
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
CHECKED = {"reset": messages_of, "step": step_of, "close": lambda _: None}
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
            # only who forks may kill: as long as it has not waited for a child, no other process gets its number
            pid = int(order[1:])
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        control.sendall(b"%16d" % pid)


def _ready(card: Any) -> Any:
    """The environment's tools, or the error why there is no environment. Somebody else's code is imported here, once for all."""
    try:
        made = resolve(card)
        getattr(made, "preload", lambda: None)()
        return made.tools() if not inspect.iscoroutinefunction(made.tools) else asyncio.run(made.tools())
    except RaylmError as cause:
        return cause
    # somebody else's code: only words leave the process
    except (Exception, SystemExit) as cause:
        return Failed("raised", f"tools() of the environment raised {in_words(cause)}")


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
            if method == "reset":
                environment = copy.deepcopy(resolve(card))
            call = getattr(environment, method)
            found = call() if method == "close" else call(argument)
            answer = await found if inspect.isawaitable(found) else found
            line.send((CHECKED[method](answer), None))
        # somebody else's code: whatever it raises costs this conversation alone
        except (Exception, SystemExit, asyncio.CancelledError) as cause:
            where = traceback.extract_tb(cause.__traceback__)[-1]
            line.send((None, f"{method}: {in_words(cause)} ({os.path.basename(where.filename)}:{where.lineno})"))


def _die_with_parent() -> None:
    """Linux ends this process with the nursery, and that ends with the driver."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
