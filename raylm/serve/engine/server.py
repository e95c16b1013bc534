"""The process with an engine: its own HTTP server for gateways, and the engine core that it forks.

zygote --fork--> engine server: uvicorn -> InnerDoor -> vLLM's app -> AsyncLLM --fork--> engine core
                   `-- link to the replica: Ready, Load each `BEAT_S`, Lost

It ends with its replica, and its engine core with it: no part of an engine is left behind, whichever of the three is killed.
A replica that ended is followed at once: who has a stream of it goes on elsewhere, and the closed port tells Control.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import signal
import socket
import threading
import time
from typing import Any

from raylm.core.errors import RaylmError
from raylm.inference.engine import set_environment
from raylm.inference.engine_dtype import engine_dtype, network_of
from raylm.inference.engine_watch import HangWatch, Meter
from raylm.inference.vllm_adapters_private import load_adapter, unload_adapter
from raylm.inference.vllm_serving_private import Step, cores, num_queued_tokens, num_under_way
from raylm.inference.weight_swap import Hold
from raylm.inference.zygote import die_with
from raylm.model.load import on_this_machine
from raylm.serve.api.models import ADAPTERS, FAILED, cards
from raylm.serve.api.openai_app import Families, serving_app
from raylm.serve.api.tasks import ROUTES
from raylm.serve.directory import BEAT_S, Address, Load, Orders
from raylm.serve.engine.adapter_check import Base
from raylm.serve.engine.adapters import Adapters, Hooks
from raylm.serve.engine.app import start_engine
from raylm.serve.engine.inner import DTYPE, SERVED, InnerDoor
from raylm.serve.engine.link import Drain, Drained, Failed, Link, Lost, Ready, Start
from raylm.serve.engine.orders import carry_out, prove
from raylm.serve.engine.phases import Phases
from raylm.serve.engine.plain import plainly
from raylm.serve.engine.probe import probe
from raylm.serve.engine.resume import follow

PING_S = 1.0
CLOSE_S = 1.0
END_S = 3.0
"""Seconds in which those who wait are told that their engine died, or an engine core ends by itself."""


class Server:
    """What one process serves, and how it is. Attributes may be read by what carries out orders."""

    def __init__(self, link: Link, start: Start) -> None:
        self.link, self.served, self.orders = link, start.served, start.orders
        self.listener = socket.create_server((start.host, 0), backlog=2048)
        self.phases = Phases(start.spawned)
        self._start, self._ended = start, asyncio.Event()
        self._ordered = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._lost = self._alone = False
        self.ready = threading.Event()
        """The event loop hears its replica from now on; before, it is busy with its engine."""
        self.hold = Hold()
        """What is answered passes it."""
        self.paused = False
        """What is under way stands still on purpose (weights are swapped): that is no hang."""
        self.adapters: Adapters | None = None
        """What is loaded; None where there is no room for any."""

    async def run(self) -> None:
        """Start, answer, and return when it is over."""
        self._listening = await self._begin()
        self.ready.set()
        self.link.listen(self._heard, self._left)
        # one that fails ends all: an engine of which nobody knows how it is must not answer
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._listening.serve([self.listener]))
            tasks = [group.create_task(each) for each in (self._beat(), self._watch(), self._carry_out())]
            await self._ended.wait()
            self._listening.should_exit = True
            if not self._alone:
                # what was answered last goes out
                await asyncio.wait({answering}, timeout=CLOSE_S)
            for task in (answering, *tasks):
                task.cancel()
        self.engine.shutdown(timeout=0.0 if self._alone else END_S)

    async def _begin(self) -> Any:
        import uvicorn

        served, phases = self.served, self.phases
        weights = self.taken = self.orders.weights
        # what was ordered meanwhile is what a new engine begins with
        self.uri, self.fingerprint = (weights.uri, weights.fingerprint) if weights else (served.model, served.fingerprint)
        self.model = on_this_machine(self.uri)
        phases.end("fetch")
        cache = served.engine.kv_cache_dtype
        self.dtype = engine_dtype(network_of(self.model), served.dtype, served.gpu, where=self.uri, cache=cache).name
        families = Families.of(self.model, served.task)
        arguments = families.arguments(served.model_name)
        phases.end("arguments")
        self.meter: Meter | None = None
        self.engine = start_engine(served, self.model, self.dtype, self._step, families.reasoning)
        follow(self.engine)
        self.meter = Meter(lambda: num_under_way(self.engine), lambda: num_queued_tokens(self.engine))
        phases.end("engine")
        app = await serving_app(self.engine, arguments, families, served.limits, lambda: cards(self.address), served.task)
        says, limits = {SERVED: self.fingerprint, DTYPE: self.dtype}, served.limits
        self.door = InnerDoor(
            app.app, self._start.secret, says, limits.body_bytes, app.check, lambda: self.engine.errored, self.hold
        )
        if served.lora is not None:
            base, inner = Base(self.uri, self.fingerprint, served.lora.max_rank), app.inner
            hooks = Hooks(functools.partial(load_adapter, inner), functools.partial(unload_adapter, inner))
            self.adapters = Adapters(base, served.lora.most, hooks)
        phases.end("app")
        await probe(self.engine, served.task)
        await prove(self, weights)
        await carry_out(self, self.orders)
        phases.end("probe")
        phases.show()
        config = uvicorn.Config(self.door, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=75, ws="none")
        self.tell()
        return _quiet(uvicorn.Server)(config)

    @property
    def address(self) -> Address:
        """As gateways shall see it; the replica adds where and who it is."""
        served, own = self.served, self.adapters
        adapters = {ADAPTERS: own.lineage, FAILED: own.failed} if own else {}
        lineage = {**self._lineage(), "fingerprint": self.fingerprint, **adapters}
        return Address(
            replica="",
            model=served.model_name,
            host=self._start.host,
            port=self.listener.getsockname()[1],
            secret=self._start.secret,
            fingerprint=self.fingerprint,
            dtype=self.dtype,
            max_len=self.engine.model_config.max_model_len,
            adapters=own.names if own else (),
            routes=ROUTES[served.task],
            lineage=lineage,
        )

    def _lineage(self) -> dict[str, Any]:
        """Of the weights that it has now."""
        if self.fingerprint == self.served.fingerprint:
            return self.served.lineage
        return self.taken.lineage if self.taken is not None else {}

    def tell(self) -> None:
        """Say where and what this serves: at the start, and when weights or adapters are others."""
        self.door.says[SERVED] = self.fingerprint
        if "probe" in self.phases.seconds:
            self.link.say(Ready(os.getpid(), self.address, dict(self.phases.seconds)))

    def _step(self, step: Step) -> None:
        if self.meter is not None:
            self.meter.heard(step)

    def _heard(self, message: Any) -> None:
        if isinstance(message, Orders):
            self.orders = message
            self._ordered.set()
        elif isinstance(message, Drain) and self._draining is None:
            self._draining = asyncio.create_task(self._drain(message.seconds))

    async def _carry_out(self) -> None:
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            await carry_out(self, self.orders)

    async def _beat(self) -> None:
        assert self.meter is not None
        while True:
            self.link.say(Load(**{name: value for name, value in self.meter.busy()._asdict().items() if name in Load._fields}))
            await asyncio.sleep(BEAT_S)

    async def _watch(self) -> None:
        """Know at once of an engine core that ended, and soon of one that hangs, however many requests still come to it."""
        assert self.meter is not None
        loop, found = asyncio.get_running_loop(), cores(self.engine)
        for pid, sentinel in found:
            loop.add_reader(sentinel, self._died, f"the engine core (pid {pid}) ended", sentinel)
        hang, processes = HangWatch(self.served.engine.hang_s, time.monotonic()), _processes([pid for pid, _ in found])
        pings, pinged, ping = 0, 0.0, None
        while True:
            await asyncio.sleep(BEAT_S)
            if self.engine.errored:
                self._died("the engine failed")
                return
            now = time.monotonic()
            if ping is None or (ping.done() and now > pinged + PING_S):
                # answered between two steps
                pings, pinged, ping = pings + 1, now, asyncio.create_task(_pinged(self.engine))
            asked = not self.paused and (num_under_way(self.engine) > 0 or not ping.done())
            why = hang.look(now, asked, hash((self.meter.steps, pings, ping.done())), _cpu_s(processes))
            if why:
                self.link.say(Lost(why, ends=False))
                return

    def _died(self, why: str, sentinel: int | None = None) -> None:
        if sentinel is not None:
            asyncio.get_running_loop().remove_reader(sentinel)
        if not self._lost and not self._ended.is_set():
            self._lost = True
            self.link.say(Lost(why, ends=True))
            self._draining = asyncio.create_task(self._drain(END_S))

    def _left(self) -> None:
        """The replica ended: nobody would start this engine again, or tell Control of it."""
        self._alone = True
        for server in getattr(self._listening, "servers", ()):
            server.close()
        # the end of these is what gateways, and Control, hear first: it must not wait for the engine's
        for connection in list(self._listening.server_state.connections):
            connection.transport.abort()
        for process in _processes([pid for pid, _ in cores(self.engine)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self._ended.set()

    async def _drain(self, seconds: float) -> None:
        """Let what is under way end, at most for so long; then this is over."""
        until = time.monotonic() + seconds
        while self.door.under_way and time.monotonic() < until:
            await asyncio.sleep(0.02)
        left = self.door.under_way
        self.link.say(Drained(left))
        self._ended.set()


def main(channel: socket.socket) -> None:
    """Where a forked process begins: the first message says what it is to serve."""
    import uvloop

    link = Link(channel)
    try:
        start: Start = link.hear()
    except EOFError:
        return
    set_environment(start.served.gpu)
    server = Server(link, start)
    here, inherited = os.getpid(), (link.fileno(), server.listener.fileno())

    def forked() -> None:
        # an engine core that held the link would hide the death of this process from its replica, and with the port open Control
        # would take a server that has ended for one that is slow
        for each in inherited:
            with contextlib.suppress(OSError):
                os.close(each)
        die_with(here)

    os.register_at_fork(after_in_child=forked)
    threading.Thread(target=_end_with, args=(link.fileno(), server.ready), daemon=True).start()
    try:
        uvloop.run(plainly(server.run()))
    except (RuntimeError, RaylmError) as error:
        link.say(Failed(str(error)))


def _end_with(link: int, ready: threading.Event) -> None:
    """End this process with the other end of its link, also where its event loop is busy: with the start of its engine, or stuck.
    Its engine core ends with it."""
    ended = select.poll()
    # nothing but the end is waited for: words are read by the event loop
    ended.register(link, 0)
    ended.poll()
    if ready.is_set():
        # the event loop hears of it too, and leaves nothing behind
        time.sleep(END_S)
    os._exit(1)


async def _pinged(engine: Any) -> None:
    """An answer of the engine core; that it ended others say."""
    with contextlib.suppress(RuntimeError):
        await plainly(engine.is_paused())


def _processes(pids: list[int]) -> list[Any]:
    """Engine cores, and their workers where they have some."""
    import psutil

    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [each for process in found for each in (process, *process.children(recursive=True))]


def _cpu_s(processes: list[Any]) -> float:
    """Seconds of CPU time; of what has ended, none."""
    import psutil

    total = 0.0
    for each in processes:
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def _quiet(server: Any) -> Any:
    """uvicorn's server without its own way with signals: this process ends by what its replica says."""

    class Quiet(server):
        def capture_signals(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    return Quiet
