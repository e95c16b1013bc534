"""Environments of the conversations under way, each in a process that can be killed, as the driver sees them."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Hashable
from multiprocessing.connection import Connection, wait
from typing import Any

from raylm.core.errors import RaylmError, StageError
from raylm.rl.environments.process import FORK, KILL, Failed

START_S = 120.0
"""Seconds for the imports of an environment, and for the list of its tools."""
FORK_S = 30.0
"""Seconds for a fork."""
_NURSERY = "from raylm.rl.environments.process import main; main()"
CLOSE_S = 10.0
"""Seconds for the end of a conversation, after which its process is ended."""


class _Child:
    """One process: free, or of one conversation."""

    def __init__(self, pid: int, line: Connection) -> None:
        self.pid, self.line = pid, line
        self.key: Hashable = None
        self.deadline: float | None = None
        """When the call under way must have been answered; None: none is."""
        self.closes = False


class Processes:
    """A process for each conversation, used again when it is over.

    Args:
        card: the environment; somebody else's code is imported in another process only.
        most: conversations at the same time; further ones wait for a process.
    """

    def __init__(self, card: Any, most: int) -> None:
        self._most, self._waiting = most, deque[tuple[Hashable, Any, float]]()
        self._children: dict[Hashable, _Child] = {}
        self._free: list[_Child] = []
        self._closing: list[_Child] = []
        self._control, far = socket.socketpair()
        command = [sys.executable, "-c", _NURSERY, str(far.fileno())]
        # where this process finds its modules: raylm itself, and somebody else's environment
        paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))
        self._nursery = subprocess.Popen(command, pass_fds=[far.fileno()], env={**os.environ, "PYTHONPATH": paths})
        far.close()
        self._card, self._ready, self._tools = card, False, list[dict[str, Any]]()

    def tools(self) -> list[dict[str, Any]]:
        """The tools that the environment offers.

        Raises:
            ConfigError: the environment cannot be made.
            StageError: its import or its list of tools failed, hung or ended the process.
        """
        if not self._ready:
            self._refuse(self._hello())
            self._ready = True
            child = self._fork()
            child.line.send(("tools", None))
            self._refuse(self._asked(child))
            self._free.append(child)
        return self._tools

    def _hello(self) -> Any:
        with Connection(os.dup(self._control.fileno())) as line:
            try:
                line.send_bytes(pickle.dumps(self._card))
                return line.recv() if line.poll(START_S) else Failed("timed_out", f"it is not imported within {START_S:g} s")
            except (EOFError, OSError):
                return Failed("died", f"its import ended the process, exit code {self._nursery.wait(FORK_S)}")

    def _asked(self, child: _Child) -> Any:
        """Take its tools over."""
        try:
            if not child.line.poll(START_S):
                return Failed("timed_out", f"tools() did not answer within {START_S:g} s")
            self._tools, why = child.line.recv()
        except (EOFError, OSError):
            return Failed("died", "tools() ended its process")
        return why if why is None or isinstance(why, RaylmError) else Failed("raised", why)

    def _refuse(self, found: Any) -> None:
        if found is not None:
            self.close()
            if isinstance(found, RaylmError):
                raise found
            raise StageError(f"the environment cannot be made: {found.why}", where="environment")

    def call(self, key: Hashable, method: str, argument: Any, timeout_s: float) -> None:
        """Ask the environment of one conversation; `reset` begins it. The answer comes by `answers`."""
        if method == "reset":
            self.tools()  # only a nursery that is ready forks
            self._waiting.append((key, argument, timeout_s))
            self._fill()
        else:
            self._send(self._children[key], method, argument, timeout_s)

    def answers(self, timeout_s: float = 0.0) -> list[tuple[Hashable, Any]]:
        """(conversation, its messages or Step, or Failed) of all that is answered by now or has missed its deadline.

        Args:
            timeout_s: most seconds to wait for the first one.
        """
        self._fill()
        until = time.monotonic() + timeout_s
        while True:
            asked: dict[Any, _Child] = {
                child.line: child for child in (*self._children.values(), *self._closing) if child.deadline is not None
            }
            now = time.monotonic()
            left = min((until, *(child.deadline or until for child in asked.values()))) - now
            # of no lines `wait` would not wait
            done = [asked[line] for line in wait(list(asked), max(0.0, left))] if asked else []
            late = [child for child in asked.values() if child not in done and (child.deadline or 0.0) <= time.monotonic()]
            found = [one for child in done if (one := self._take(child)) is not None]
            found += [one for child in late if (one := self._lose(child, "timed_out", "did not answer in time")) is not None]
            self._fill()
            if found or not asked or time.monotonic() >= until:
                return found

    def end(self, key: Hashable) -> None:
        """The conversation is over: its process is told, and free for another one."""
        self._waiting = deque(each for each in self._waiting if each[0] != key)
        if (child := self._children.pop(key, None)) is None:
            return
        if child.deadline is not None:
            self._kill(child)  # given up in the middle of a call
        else:
            child.closes = True
            self._closing.append(child)
            self._send(child, "close", None, CLOSE_S)

    def close(self) -> None:
        """End all of them."""
        for child in (*self._children.values(), *self._closing):
            # what hangs may have started processes that do not end with it
            with contextlib.suppress(StageError):
                self._kill(child)
        self._control.close()  # the nursery ends with it, and its children with the nursery
        for child in self._free:
            child.line.close()
        try:
            self._nursery.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            self._nursery.wait()

    def _fill(self) -> None:
        """Give waiting conversations a process, as far as there may be more."""
        while self._waiting and (self._free or self._count() < self._most):
            key, argument, timeout_s = self._waiting.popleft()
            child = self._free.pop() if self._free else self._fork()
            if child.line.poll():
                self._kill(child)  # it has died while it was free
                child = self._fork()
            child.key = key
            self._children[key] = child
            self._send(child, "reset", (argument, self._tools), timeout_s)

    def _count(self) -> int:
        return len(self._children) + len(self._closing) + len(self._free)

    def _fork(self) -> _Child:
        near, far = socket.socketpair()
        with far:
            pid = self._order(FORK, [far.fileno()])
        return _Child(pid, Connection(near.detach()))

    def _order(self, order: bytes, descriptors: list[int]) -> int:
        """Tell the nursery to fork or to kill; the process that it did. Raises StageError when it is gone."""
        self._control.settimeout(FORK_S)
        try:
            socket.send_fds(self._control, [order], descriptors)
            answer = self._control.recv(16, socket.MSG_WAITALL)
        except OSError as cause:
            raise StageError(f"the process that starts environments is gone: {cause}", where="environment") from cause
        if len(answer) != 16:
            raise StageError("the process that starts environments has ended; was it out of memory?", where="environment")
        return int(answer)

    def _send(self, child: _Child, method: str, argument: Any, timeout_s: float) -> None:
        child.deadline = time.monotonic() + timeout_s
        # a process that has died is seen when its answer is awaited
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.line.send((method, argument))

    def _take(self, child: _Child) -> tuple[Hashable, Any] | None:
        try:
            answer, why = child.line.recv()
        except (EOFError, OSError):
            return self._lose(child, "died", "ended its process")
        child.deadline = None
        if child.closes:
            self._closing.remove(child)
            child.closes, child.key = False, None
            self._free.append(child)
            return None
        return child.key, answer if why is None else Failed("raised", f"the environment raised in {why}")

    def _lose(self, child: _Child, kind: str, why: str) -> tuple[Hashable, Failed] | None:
        self._kill(child)
        if child.closes:
            self._closing.remove(child)
            return None
        del self._children[child.key]
        return child.key, Failed(kind, f"the environment {why}")

    def _kill(self, child: _Child) -> None:
        child.line.close()
        self._order(KILL + b"%d" % child.pid, [])
