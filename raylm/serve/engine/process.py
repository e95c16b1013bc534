"""One engine server as its replica sees it: started by the machine's zygote, waited for, heard, drained, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from typing import Any

from raylm.core.errors import StageError
from raylm.inference import zygote
from raylm.inference.engine import set_cpu_options, set_environment
from raylm.serve.directory import Load, Orders
from raylm.serve.engine.app import Served
from raylm.serve.engine.link import Drain, Drained, Exchanged, Failed, Link, Lost, Ready, Start

ENTRY = "raylm.serve.engine.server:main"
IMPORTS = (
    "vllm.engine.arg_utils",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.launchers.api_server.app_state",
    "vllm.entrypoints.launchers.app",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.v1.worker.cpu_worker",
    "transformers.models.auto",
    "llguidance",
    "uvicorn",
    "uvloop",
    "httptools",
    "raylm.serve.engine.server",
)
"""What the zygote has imported when it forks this."""
DRAINED_S = 10.0
"""Seconds that a process has to end after it has drained."""


class EngineProcess:
    """Made by `start`. `lost` is done as soon as it cannot be asked any more."""

    def __init__(self, child: zygote.Child, secret: str) -> None:
        self.pid, self.secret, self._lease = child.pid, secret, child.lease
        self._link = Link(child.channel)
        self.load, self.heard_s = Load(), time.monotonic()
        """How busy it is, and when it said so."""
        self.lost: asyncio.Future[Lost] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        """What it serves now; renewed when it says that that is something else."""
        self.changed = asyncio.Event()
        """It has other weights or adapters than it said before."""
        self.exchanged: list[Exchanged] = []
        """What became of weights that were ordered, and is not told yet."""
        self.left = 0
        """Requests that were cut off when it was drained."""
        self.ended = asyncio.Event()

    @classmethod
    async def start(cls, served: Served, orders: Orders, host: str, owner: int) -> EngineProcess:
        """A process that is starting; wait for `ready`.

        Args:
            host: address of this machine that gateways reach.
            owner: pid of the Ray node's process.
        """
        began = time.time()
        set_environment(served.gpu)
        if not served.gpu:
            set_cpu_options({"enforce_eager": True, **served.engine.options})
        child = await asyncio.to_thread(zygote.spawn, ENTRY, IMPORTS, owner)
        made = cls(child, secrets.token_urlsafe(32))
        made._link.listen(made._heard, made._gone)
        made._link.say(Start(served, orders, host, made.secret, began))
        return made

    async def wait(self) -> Ready:
        """Raises StageError when it cannot start; with why."""
        await asyncio.wait({self.ready, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not self.ready.done():
            raise StageError(self.lost.result().why)
        return self.ready.result()

    def order(self, orders: Orders) -> None:
        """It is to be so from now on."""
        self._link.say(orders)

    async def drain(self, seconds: float) -> int:
        """Let it finish what it has, at most for so long, and end; the number of requests that were cut off."""
        self._link.say(Drain(seconds))
        await self.end(seconds + DRAINED_S)
        return self.left

    async def end(self, seconds: float) -> None:
        """Wait until it has ended by itself, at most for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        self.kill()

    def kill(self) -> None:
        """End it now, and its engine core with it."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.close()

    def give_up(self, why: str) -> None:
        """End it now: it is lost, unless it was already."""
        self.kill()
        self._lost(Lost(why, ends=False))

    def close(self) -> None:
        """Nothing more is heard of it; it ends by itself where it has not."""
        self._link.close()
        self._lease.close()
        # nobody waits for a word of it, and its pid may soon be another process's
        self.ended.set()

    def _heard(self, message: Any) -> None:
        self.heard_s = time.monotonic()
        if isinstance(message, Load):
            self.load = message
        elif isinstance(message, Ready):
            if self.ready.done():
                self.ready = asyncio.get_running_loop().create_future()
                self.changed.set()
            self.ready.set_result(message)
        elif isinstance(message, Exchanged):
            self.exchanged.append(message)
        elif isinstance(message, Lost):
            self._lost(message)
        elif isinstance(message, Failed):
            self._lost(Lost(message.why, ends=True))
        elif isinstance(message, Drained):
            self.left = message.left

    def _gone(self) -> None:
        self.ended.set()
        self._lost(Lost("the engine's process ended", ends=True))

    def _lost(self, lost: Lost) -> None:
        if not self.lost.done():
            self.lost.set_result(lost)
