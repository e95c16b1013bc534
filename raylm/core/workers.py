"""Workers: starts or joins the Ray cluster, and holds actors that several stages use."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from raylm.core.config import Role, WorkerSpec
from raylm.core.errors import PlacementError
from raylm.core.node import start_node
from raylm.core.room import SUBMITTED, Node, Patience, Reservation, Roles, asks, free, nodes, refusal, waits_for_autoscaler

Held = TypeVar("Held")

RETURN_S = 900.0
"""Seconds that a run waits for machines to come back that its cluster had before."""

# key of an endpoint, which no process of the cluster needs to know
KEY_VARIABLE = "RAYLM_API_KEY"

# lines of the raylet that raylm says in its own words, or that our sharing of cores makes harmless
SAID_OTHERWISE = (
    "PYTHON worker processes have been started",
    "A worker died or was killed while executing",
    # calls that wait at Serve's controller when an endpoint is stopped
    r"Task ServeController\.",
)


class Workers:
    """The cluster of one run. Things that are slow to start (rank groups, engines) are held here between stages.

    On a machine of its own a run starts Ray itself and stops it at the end; several small workers may share a core
    there, because a laptop that lacks cores should be slow and not stuck. Inside `ray job submit` it joins that
    cluster and asks for whole cores.
    """

    def __init__(self, wanted_cpus: float = 0.0) -> None:
        self.submitted = SUBMITTED in os.environ
        self._wanted_cpus = wanted_cpus
        self._held: dict[str, tuple[Any, Callable[[Any], None]]] = {}
        self._reserved: Reservation | None = None
        self._largest: list[Node] = []
        self._told = ""
        self._started = False
        # stands before the first import of Ray, which reads it then
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "|".join(SAID_OTHERWISE))
        # inherited by all workers: their progress is told by raylm, once
        os.environ.setdefault("TQDM_DISABLE", "1")
        if not self.submitted:
            # a process of Ray Train that looks for nodes being drained: a cluster that begins and ends with this run has none
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            # Ray's process that reads workers' logs ten times a second has none to read: nobody hears what it would send
            # (log_to_driver). It lists them at this interval, but always where they are fewer than the other number
            os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", "86400")
            os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
            # how often another one measures all processes, for a dashboard that is not there
            os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
        # idle workers beyond this many are ended: each has torch in memory
        os.environ.setdefault("RAY_num_workers_soft_limit", str(os.cpu_count() or 1))

    def ensure(self) -> None:
        """Start or join Ray; nothing happens when that was done before."""
        if self._started:
            return
        import ray

        if self.submitted:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _unsaid(KEY_VARIABLE):
                start_node(max(os.cpu_count() or 1, math.ceil(self._wanted_cpus)), _object_store_bytes())
        self._started = True

    def check_room(self, roles: Roles, what: str) -> None:
        """Wait for machines that this run has seen and that are gone, if one phase of `roles` needs them.

        Raises:
            PlacementError: the cluster can never hold what is asked for, or they did not come back within `RETURN_S`.
        """
        self.ensure()
        patience, until = Patience(what), time.monotonic() + RETURN_S
        while error := refusal(roles, what):
            there = nodes()
            self._largest = max(self._largest, there, key=len)
            if refusal(roles, what, self._largest):
                raise error
            if time.monotonic() > until:
                raise PlacementError(f"{error.what}; no machine came back within {RETURN_S:.0f} s", next=error.next)
            patience.look(roles, f"; {len(there)} of {len(self._largest)} machines are left")
            time.sleep(1.0)
        self._largest = max(self._largest, nodes(), key=len)
        told = waits_for_autoscaler(roles, what) if self.submitted else ""
        if told and told != self._told:
            print(f"  {told}", file=sys.stderr, flush=True)
        self._told = told

    def reserve(self, roles: Roles, what: str) -> Reservation | None:
        """Places for `roles` on a shared cluster, all or none; waits for them. What was held in other places is closed first:
        a job that holds some of a cluster while it waits for more can stop another that does the same.

        Returns:
            None on a cluster of our own, whose cores may be shared by several small workers, and for what asks for nothing.
        """
        self.check_room(roles, what)
        wanted = {name: role for name, role in roles.items() if asks(role)}
        if not self.submitted or not wanted:
            return None
        if self._reserved is None or not all(self._reserved.has(name, role) for name, role in wanted.items()):
            self.give_back()
            self._reserved = Reservation(wanted, what)
        return self._reserved

    def place(self, name: str, role: Role, what: str, number: int = 0) -> Any:
        """Ray's scheduling strategy for process `number` of the role `name`; all are reserved now unless the stage did so
        before."""
        if role.colocate_with:
            return self._reserved.strategy(role.colocate_with, number) if self._reserved else "DEFAULT"
        reserved = self.reserve({name: role}, what)
        return reserved.strategy(name, number) if reserved else "DEFAULT"

    def hold(self, key: str, make: Callable[[], Held], close: Callable[[Held], None]) -> Held:
        """What is held under `key`, made now if nothing is. The next stage that asks for the same key gets the same thing."""
        if key not in self._held:
            self.ensure()
            self._held[key] = (make(), close)
        return self._held[key][0]

    def holds(self, prefix: str) -> bool:
        """Whether anything is held whose key begins with `prefix`."""
        return any(key.startswith(prefix) for key in self._held)

    def keep(self, prefixes: set[str]) -> None:
        """Close what has no role in a coming stage: a rank group or an engine that only waits holds memory."""
        for key in list(self._held):
            if not any(key.startswith(prefix) for prefix in prefixes):
                self.release(key)
        if self._reserved and not all(self.holds(name) for name in self._reserved.roles):
            self.give_back()  # places of which some are left empty would be missed by others

    def release(self, prefix: str = "") -> None:
        """Close everything held whose key begins with `prefix`."""
        closed = [key for key in self._held if key.startswith(prefix)]
        for key in closed:
            thing, close = self._held.pop(key)
            close(thing)
        if closed and self._reserved and not any(self.holds(name) for name in self._reserved.roles):
            self.give_back()

    def give_back(self) -> None:
        """End the reservation, and what is held in its places."""
        reserved, self._reserved = self._reserved, None
        if reserved:
            for name in reserved.roles:
                self.release(name)
            reserved.end()

    def stop(self) -> None:
        """Close all that is held; stop Ray if this run started it."""
        if not self._started:
            return
        import ray
        from ray.exceptions import RayError

        for key in list(self._held):
            # a worker that is already dead must not keep the others from being closed
            with contextlib.suppress(RayError):
                self.release(key)
        ray.shutdown()
        self._started, self._reserved = False, None


def wait_for(reference: Any, timeout_s: float, what: str) -> Any:
    """`ray.get` with a deadline. Raises PlacementError that names `what` and the seconds."""
    import ray
    from ray.exceptions import GetTimeoutError

    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as cause:
        raise _late(timeout_s, what) from cause


def start_task(function: Callable[..., Any], spec: WorkerSpec, *args: Any) -> Any:
    """A call of `function` on a worker that holds what one of `spec` asks for; `finish_task` has its result."""
    import ray

    def announced() -> Iterator[Any]:
        yield None  # there was room, and it runs
        yield function(*args)

    remote: Any = ray.remote(num_cpus=spec.cpus, num_gpus=spec.gpus, max_retries=2, num_returns="streaming")(announced)
    return remote.remote()


def finish_task(task: Any, spec: WorkerSpec, timeout_s: float, what: str) -> Any:
    """Result of a call that `start_task` began; says what it waits for as long as no worker had room for it.

    Raises:
        PlacementError: it took longer than `timeout_s`.
    """
    import ray

    patience, until, found = Patience(what), time.monotonic() + timeout_s, None
    for announcement in (True, False):
        while not ray.wait([task], timeout=min(1.0, timeout_s), fetch_local=False)[0]:
            if announcement:
                patience.look({"worker": spec.role(count=1)})
            if time.monotonic() > until:
                raise _late(timeout_s, what)
        found = ray.get(next(task))
    return found


def _late(timeout_s: float, what: str) -> PlacementError:
    return PlacementError(
        f"waited {timeout_s:g} s for {what}; the cluster has {free()}", next="worker logs lie in Ray's session folder"
    )


@contextlib.contextmanager
def _unsaid(name: str) -> Iterator[None]:
    """Without this variable: all of Ray's processes inherit the environment in which the first one starts."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _object_store_bytes() -> int:
    """A tenth of this machine's memory, 256 MB to 8 GB: rows and weights of one machine's run pass through it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(max(total // 10, 256 << 20), 8 << 30))


def stay() -> None:
    """Keep this process, and with it what it serves, until Ctrl-C or SIGTERM. On a cluster that was there before, Serve
    goes on without it."""
    import signal
    import threading

    if SUBMITTED in os.environ:
        return
    gone = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: gone.set())
    gone.wait()
