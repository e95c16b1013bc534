"""What Ray Serve starts, heals and scales: an actor that keeps one engine's process alive and tells Control how it is.

Serve --> Replica --spawn--> engine server (HTTP, vLLM) <-- gateways
             |-- register, beat each `BEAT_S`, unready --> Control
             `<- Orders ----------------------------------'

No class of vLLM is ever in this process: what Serve's controller reads of it are words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

from raylm.core.errors import RaylmError
from raylm.serve.directory import BEAT_S, SILENT_S, Load, Orders, State
from raylm.serve.engine.app import Served
from raylm.serve.engine.link import Ready
from raylm.serve.engine.process import EngineProcess
from raylm.serve.scaling.policy import autoscaling
from raylm.serve.served_model import ServedModel

HEALTH_PERIOD_S = 1.0
CLOSE_S = 20.0
"""Seconds that a replica has to end its engine once what was under way has ended."""
CONTROL_S = 2.0
"""Seconds that Control may take for an answer."""
MOST_LOSSES, WINDOW_S = 3, 600.0
"""An engine that is lost more often than that within so many seconds is not started again here: Serve replaces the replica."""
FIRST_S = 60.0
"""Seconds that a replica waits for Control at its start."""
UNHEARD = object()
"""Control did not answer."""
SAYS_NOTHING = "the engine's process says nothing"


class Replica:
    """One replica of one model.

    Args:
        control: handle of Control, or what has its methods.
        drain_s: seconds that requests under way get when Serve ends this.
        host: address of this machine that gateways reach; Ray's.
    """

    async def __init__(self, served: Served, control: Any, drain_s: float = 30.0, host: str = "", owner: int = 0) -> None:
        self._served, self._control, self._drain_s = served, control, drain_s
        self._host, self._owner = host or _node_address(), owner or os.getppid()
        self._name = f"{served.model_name}-{uuid4().hex[:12]}"
        self._losses: deque[float] = deque()
        self._given_up = ""
        self._leaving: EngineProcess | None = None
        """A process that ends before another one takes its place."""
        self._ending: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._state: str | None = None
        """What Control was told of this last; None where it knows nothing."""
        self._untold = ""
        """Why this is unready, where Control did not hear it."""
        self._log = logging.getLogger("ray.serve")
        self._orders = await self._first_orders()
        await self._start()
        self._ended = False
        self._tasks = [asyncio.create_task(each) for each in (self._beat(), self._keep())]

    async def awake(self) -> None:
        """For Serve's autoscaling: a call that waits is what it starts a first replica for."""

    async def facts(self) -> dict[str, Any]:
        """Of this replica: seconds of each phase of its start, pid of the process that serves."""
        ready = await self._process.ready
        return {"replica": self._name, "pid": ready.pid, "phases": ready.phases, "losses": len(self._losses)}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For a scaling policy: what is known of the load, and how many requests gateways hold; nothing of an engine that is
        silent, for what it told last is no load of now."""
        process = self._process
        if time.monotonic() - process.heard_s > SILENT_S:
            return {}
        held = await self._told("held", self._served.model_name)
        found = {"held": held, **process.load._asdict()}
        return {name: float(value) for name, value in found.items() if value is not None and value is not UNHEARD}

    async def check_health(self) -> None:
        """Raises RuntimeError when this cannot keep its engine alive; Serve then replaces the replica."""
        if self._given_up:
            raise RuntimeError(self._given_up)
        for task in () if self._ended else self._tasks:
            # without it nobody would beat, or start the engine again
            if task.done():
                cause = None if task.cancelled() else task.exception()
                raise RuntimeError(f"what keeps the engine ended: {type(cause).__name__}: {cause}")

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this when it ends a replica, and awaits what comes; Python itself calls it later again."""
        if getattr(self, "_ended", True):
            return None
        self._ended = True
        return self._end()

    async def _end(self) -> None:
        """No new requests, what is under way ends, then the engine."""
        for task in (*self._tasks, *((self._renewing,) if self._renewing else ())):
            task.cancel()
        await self._told("drain", self._name)
        # one that made room for another may not have ended what it has
        left, *_ = await asyncio.gather(self._process.drain(self._drain_s), *self._ending)
        if left:
            self._log.error("%s requests were cut off after %s s", left, self._drain_s)
        await self._told("leave", self._name)

    async def _first_orders(self) -> Orders:
        """What is ordered already: this must not begin to answer with anything else."""
        until = time.monotonic() + FIRST_S
        while (orders := await self._told("orders", self._served.model_name)) is UNHEARD:
            if time.monotonic() > until:
                raise RuntimeError(f"the endpoint's control did not answer for {FIRST_S:g} s")
        return orders

    async def _start(self) -> None:
        """A process that has answered once, entered at Control. Raises RaylmError or RuntimeError with why there is none."""
        process = await EngineProcess.start(self._served, self._orders, self._host, self._owner)
        with contextlib.ExitStack() as failed:
            failed.callback(process.kill)
            ready = await process.wait()
            failed.pop_all()
        self._log.info("%s is ready: %s", self._name, ready.phases)
        self._process = process
        await self._register(ready)

    async def _register(self, ready: Ready, state: State = "ready") -> None:
        address = ready.address._replace(replica=self._name, node=_node_id())
        orders = await self._told("register", address, state)
        self._state, self._untold = None if orders is UNHEARD else state, ""
        self._take(orders)

    async def _beat(self) -> None:
        """Tell Control each `BEAT_S` that this lives, and hear what it is to be."""
        while True:
            await asyncio.sleep(BEAT_S)
            process = self._process
            if process.lost.done():
                continue
            silent = time.monotonic() - process.heard_s > SILENT_S
            if silent and self._state == "ready":
                await self._unready(SAYS_NOTHING)
            elif not silent and self._state == "unready" and process is not self._leaving:
                if await self._told("ready", self._name) is not UNHEARD:
                    self._state, self._untold = "ready", ""
            elif self._untold:
                await self._unready(self._untold)
            if time.monotonic() - process.heard_s > self._served.engine.hang_s:
                process.give_up(SAYS_NOTHING)
                continue
            while process.exchanged:
                if await self._told("exchanged", self._name, *process.exchanged[0]) is UNHEARD:
                    break
                process.exchanged.pop(0)
            orders = await self._told("beat", self._name, Load() if silent else process.load)
            if process is not self._process:
                # another took its place meanwhile: where this one was is told to nobody
                continue
            if process.changed.is_set() or self._state is None or orders is None:
                process.changed.clear()
                # a Control that began anew must not take one that is silent, or makes room, for ready
                await self._register(await process.ready, "unready" if silent or process is self._leaving else "ready")
                if process is not self._process:
                    self._state = None
            else:
                self._take(orders)

    def _take(self, orders: Any) -> None:
        """Bring the engine to what is ordered: within its process, or by another one that takes its place once it is ready."""
        if not isinstance(orders, Orders) or orders == self._orders:
            return
        self._orders = orders
        if self._has_weights or (orders.weights and orders.weights.in_place):
            self._process.order(orders)
        elif self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    @property
    def _has_weights(self) -> bool:
        """Whether the process has what is ordered."""
        weights, ready = self._orders.weights, self._process.ready
        wanted = weights.fingerprint if weights else self._served.fingerprint
        return ready.done() and ready.result().address.fingerprint == wanted

    async def _renew(self) -> None:
        """Another process with what is ordered, while the one that stands goes on until it is ready, and ends what it has."""
        while not self._has_weights:
            ordered, old = self._orders, self._process
            if self._served.gpu:
                # a GPU has no room for both: what comes meanwhile goes to others, or waits in the gateways
                self._leaving = old
                await self._unready("its engine makes room for another one")
                await old.drain(self._drain_s)
            try:
                await self._start()
            except (RaylmError, RuntimeError, OSError) as error:
                self._log.error("%s does not start with what is ordered: %s", self._name, error)
                if ordered.weights is not None:
                    await self._told("exchanged", self._name, ordered.weights.fingerprint, str(error), {})
                return
            self._end_later(old.drain(self._drain_s))

    def _end_later(self, end: Coroutine[Any, Any, Any]) -> None:
        self._ending.add(ending := asyncio.create_task(end))
        ending.add_done_callback(self._ending.discard)

    async def _keep(self) -> None:
        """Start the engine's process again in place when it is lost."""
        while not self._given_up:
            process = self._process
            await asyncio.wait({process.lost}, timeout=BEAT_S)
            if not process.lost.done() or process is not self._process:
                # all is well, or another has taken its place meanwhile
                continue
            lost = process.lost.result()
            self._log.error("%s: %s", self._name, lost.why)
            if lost.ends:
                # it tells those who wait
                self._end_later(process.end(self._drain_s))
            else:
                process.kill()
            # the next one starts even where Control cannot be told
            await asyncio.gather(self._unready(lost.why), self._again(lost.why))

    async def _again(self, why: str) -> None:
        """A new process in the place of one that is lost."""
        if self._renewing is not None and not self._renewing.done():
            await self._renewing
            if not self._process.lost.done():
                return
        while True:
            now = time.monotonic()
            self._losses.append(now)
            while self._losses[0] < now - WINDOW_S:
                self._losses.popleft()
            if len(self._losses) > MOST_LOSSES:
                self._given_up = f"the engine was lost {len(self._losses)} times in {WINDOW_S:g} s, last: {why}"
                return
            try:
                await self._start()
                return
            except (RaylmError, RuntimeError, OSError) as error:
                why = str(error)
                self._log.error("%s does not start: %s", self._name, why)

    async def _unready(self, why: str) -> None:
        self._state = "unready"
        self._untold = why if await self._told("unready", self._name, why) is UNHEARD else ""

    async def _told(self, method: str, *args: Any) -> Any:
        """What Control answers; UNHEARD where it cannot be asked: the next beat tells it again."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            async with asyncio.timeout(CONTROL_S):
                return await getattr(self._control, method).remote(*args)
        except (TimeoutError, RayError, RayServeException, RuntimeError) as error:
            self._log.warning("control cannot be told %r: %s", method, type(error).__name__)
            return UNHEARD


def deployment(model: ServedModel, name: str, drain_s: float, folder: str = "") -> Any:
    """The Serve deployment of a model, to be bound to (Served, handle of Control, drain_s).

    Args:
        folder: where the decisions of its scaling are kept, see `scaling_folder`.
    """
    from ray import serve

    return serve.deployment(
        Replica,
        name=name,
        autoscaling_config=autoscaling(model.model_name, model.replicas.policy, model.replicas.bounds, folder),
        max_ongoing_requests=model.replicas.most_ongoing,
        ray_actor_options={"num_cpus": model.workers.cpus, "num_gpus": model.workers.gpus},
        # nothing but words is asked of it: a replica that has given up is replaced after three checks
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=drain_s + CLOSE_S,
        # a start that failed for a reason fails again
        max_constructor_retry_count=1,
    )


def _node_address() -> str:
    import ray

    return ray.util.get_node_ip_address()


def _node_id() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
