"""What a replica and the process with its engine tell each other, over a socket that says by its end that one of them has ended.

replica (Ray actor) --Start, Orders, Drain--> engine server
                    <--Ready, Load, Lost, Failed, Drained--
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from raylm.serve.directory import Address, Orders
from raylm.serve.engine.app import Served


class Start(NamedTuple):
    """The first message: what to serve, and where. `secret` is in no argument and no variable of a process."""

    served: Served
    orders: Orders
    host: str
    secret: str
    spawned: float
    """time.time() before the process was asked for."""


class Ready(NamedTuple):
    """It has generated a token, and answers; told again when it has other weights or adapters."""

    pid: int
    address: Address
    """Without the replica's name and node."""
    phases: dict[str, float]
    """Seconds of each part of the start."""


class Exchanged(NamedTuple):
    """It took the weights that were ordered, in place, or did not."""

    fingerprint: str
    """Of what was ordered."""
    refused: str = ""
    """Why it goes on with those before; "" where it does not."""
    figures: dict[str, float] = {}
    """Seconds, and nats to the reference."""


class Failed(NamedTuple):
    """It could not start."""

    why: str


class Lost(NamedTuple):
    """Its engine is dead, or hangs."""

    why: str
    ends: bool
    """The process tells those who wait, and ends by itself."""


class Drain(NamedTuple):
    """Finish what is under way in so many seconds, then end."""

    seconds: float


class Drained(NamedTuple):
    """It ends now; so many requests were cut off."""

    left: int


class Link:
    """One end."""

    def __init__(self, channel: socket.socket) -> None:
        self._connection = Connection(channel.detach())

    def fileno(self) -> int:
        return self._connection.fileno()

    def say(self, message: Any) -> None:
        """Tell the other end; one that has ended hears nothing."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def hear(self) -> Any:
        """The next message. Raises EOFError when the other end has ended."""
        try:
            return self._connection.recv()
        except OSError as cause:
            raise EOFError(str(cause)) from cause

    def listen(self, heard: Callable[[Any], None], ended: Callable[[], None]) -> None:
        """Call `heard` with each message, and `ended` at the end, from the running event loop."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                message = self.hear()
            except EOFError:
                loop.remove_reader(self._connection.fileno())
                ended()
            else:
                heard(message)

        loop.add_reader(self._connection.fileno(), readable)

    def close(self) -> None:
        """Let the other end know that this one is gone."""
        with contextlib.suppress(RuntimeError, OSError, NotImplementedError):
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
