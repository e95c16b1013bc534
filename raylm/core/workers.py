"""Takes a wish for workers, leaves a Ray cluster that is ours (or the one that `ray job submit` gave us) and what it holds."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError

Held = TypeVar("Held")

# a job that was submitted to a cluster finds its address here; Ray sets it for the driver of `ray job submit`
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


# lines of the raylet that raylm says in its own words, or that our sharing of cores makes harmless
SAID_OTHERWISE = ("PYTHON worker processes have been started", "A worker died or was killed while executing")


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
        self._started = False
        # stands before the first import of Ray, which reads it then
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "|".join(SAID_OTHERWISE))
        # inherited by all workers: their progress is told by raylm, once
        os.environ.setdefault("TQDM_DISABLE", "1")
        if not self.submitted:
            # a process of Ray Train that looks for nodes being drained: a cluster that begins and ends with this run has none
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            # how often Ray's process that reads workers' logs lists them; nobody reads what it would send (log_to_driver)
            os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", "10")
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
            # the address is said aloud: plain ray.init() would attach to any cluster that happens to run here
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, math.ceil(self._wanted_cpus)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_object_store_bytes(),
            )
        self._started = True

    def check_room(self, spec: WorkerSpec, what: str) -> None:
        """Raises PlacementError, in words, when the cluster can never hold `spec`."""
        import ray

        self.ensure()
        has = ray.cluster_resources()
        for name, need in (("CPU", spec.count * spec.cpus), ("GPU", spec.count * spec.gpus)):
            if need > has.get(name, 0.0):
                raise PlacementError(
                    f"{what} asks for {need:g} {name} ({spec.count} workers), the whole cluster has {has.get(name, 0.0):g}",
                    next="lower the stage's `workers` table, or start a larger cluster",
                )

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
        """Close what no coming stage asks for: a rank group or an engine that only waits holds memory."""
        for key in list(self._held):
            if not any(key.startswith(prefix) for prefix in prefixes):
                self.release(key)

    def release(self, prefix: str = "") -> None:
        """Close everything held whose key begins with `prefix`."""
        for key in [key for key in self._held if key.startswith(prefix)]:
            thing, close = self._held.pop(key)
            close(thing)

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
        self._started = False


def wait_for(reference: Any, timeout_s: float, what: str) -> Any:
    """`ray.get` with a deadline. Raises PlacementError that names `what` and the seconds."""
    import ray
    from ray.exceptions import GetTimeoutError

    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as cause:
        raise PlacementError(f"waited {timeout_s:g} s for {what}", next=_resources_in_words()) from cause


def _resources_in_words() -> str:
    import ray

    free, total = ray.available_resources(), ray.cluster_resources()
    parts = [f"{free.get(name, 0.0):g} of {total[name]:g} {name} free" for name in ("CPU", "GPU") if name in total]
    return f"the cluster has {', '.join(parts)}; worker logs lie in Ray's session folder"


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
