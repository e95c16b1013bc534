"""The processes in which rewards run: a keeper that runs none of their code, and the child that it forks, which may hang, crash
or be killed.

    supervisor --(a socket)--> keeper --fork--> child: all rewards, until it dies
         ^------ begin, end, scores --------------'

The keeper ends the child's whole process group when the child ends, and when the supervisor is gone: a reward leaves no process
behind, however it or the run ended. Forking a keeper that has imported what all rewards need takes milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import RaylmError
from raylm.rl.rewards.calling import Calling, answers, answers_later, calling
from raylm.rl.types import Prompt, Trajectory

NOTICE = struct.Struct("ii")
"""Of the keeper: the child's process id and how it ended, as `os.waitpid` tells it; -1 where it has begun."""


class Setup(NamedTuple):
    """What a child is made of."""

    cards: list[Any]
    timeout_s: float
    memory_bytes: int | None
    """Most memory of the child, beyond which it gets a MemoryError; half of the machine's where nothing is said."""


class Ask(NamedTuple):
    """One call of one reward."""

    number: int
    card: int
    prompt: Prompt
    drawn: list[Trajectory]


def keep(handle: int) -> None:
    """The keeper: fork a child for each descriptor that comes, and tell how it ended."""
    control = socket.socket(fileno=handle)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write)
    child = 0
    while True:
        ready, _, _ = select.select([control, read], [], [])
        if read in ready:
            os.read(read, 512)
            child = _buried(control, child)
        if control not in ready:
            continue
        word, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not word:
            _end(child)
            os._exit(0)
        child = os.fork()
        if child == 0:
            control.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(read)
            os.close(write)
            _live(Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        control.send(NOTICE.pack(child, -1))


def _buried(control: socket.socket, child: int) -> int:
    """Take note of children that ended, and end what they left."""
    while child:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if not ended:
            return child
        _end(ended)
        control.send(NOTICE.pack(ended, status))
        child = 0 if ended == child else child
    return 0


def _end(group: int) -> None:
    if group:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _live(data: Connection) -> None:
    """The child: make the rewards, then answer until the supervisor hangs up."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    setup: Setup = data.recv()
    limit_memory(setup.memory_bytes)
    try:
        rewards = [resolve(card) for card in setup.cards]
        hows = [calling(card.runner() if hasattr(card, "runner") else card) for card in rewards]
    except RaylmError as cause:
        data.send(("refused", cause))
        return
    Child(data, hows, setup.timeout_s).run()


class Child:
    """Calls of rewards: one after the other in the main thread (some of them use signals), async ones beside it.

    Args:
        data: where they come from and where the scores go.
    """

    def __init__(self, data: Connection, hows: list[Calling], timeout_s: float) -> None:
        self._data, self._hows, self._timeout_s = data, hows, timeout_s
        self._lock, self._asked = threading.Lock(), queue.SimpleQueue[Ask]()
        self._loop = asyncio.new_event_loop()
        self._free = [asyncio.Semaphore(max(how.concurrency, 1)) for how in hows]
        self._running: set[Any] = set()

    def run(self) -> None:
        """Until the process ends."""
        if any(how.is_async for how in self._hows):
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        self._tell("ready", [how._replace(function=None) for how in self._hows])
        while True:
            ask = self._asked.get()
            self._tell("begin", ask.number)
            self._tell("end", ask.number, answers(self._hows[ask.card], ask.prompt, ask.drawn))

    def _read(self) -> None:
        while True:
            try:
                ask: Ask = self._data.recv()
            except (EOFError, OSError):
                os._exit(0)  # nobody waits for an answer any more; the keeper ends what is left
            if self._hows[ask.card].is_async:
                self._loop.call_soon_threadsafe(self._begin, ask)
            else:
                self._asked.put(ask)

    def _begin(self, ask: Ask) -> None:
        task = self._loop.create_task(self._later(ask))
        self._running.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._running.discard)

    async def _later(self, ask: Ask) -> None:
        how = self._hows[ask.card]
        async with self._free[ask.card]:
            self._tell("begin", ask.number)
            found = await answers_later(how, ask.prompt, ask.drawn, how.deadline_s or self._timeout_s)
            self._tell("end", ask.number, found)

    def _tell(self, *words: Any) -> None:
        with self._lock:
            try:
                self._data.send(words)
            except OSError:
                os._exit(0)


def limit_memory(most: int | None = None) -> None:
    """Bound this process's memory: it gets a MemoryError, before the machine runs out and Linux or Ray ends some other one.

    Args:
        most: bytes; half of the machine's memory where nothing is said.
    """
    import resource

    most = most or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


if __name__ == "__main__":
    keep(int(sys.argv[1]))
