"""The driver of a rank group: runs functions on ranks that Ray Train started and that stay alive between stages.

    driver                         mailbox (actor)                 ranks 0..n-1 (one TorchTrainer.fit)
    group.call(f, args) -- post -->  task 7  -- next() ----------> f(ranks, *args)
         poll() <------ rows, result ------- log(), finish() <---- ranks.log(step, loss=...)

A rank that dies takes its group with it; Ray Train starts a new group, which is handed the same unfinished task again
and goes on from the task's own checkpoint. An exception is no death: it ends the task and is raised at the driver.
A rank that is to leave (SIGTERM, a drained node, Ctrl-C at the driver) says so to all; they write a checkpoint first.
A rank that stands still for `hang_s` is found by its heartbeat, examined and ended; the same hang again ends the run.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError
from raylm.core.room import Places
from raylm.core.storage import Folder
from raylm.core.workers import Workers, wait_for
from raylm.parallel.group.allocator import allocator
from raylm.parallel.group.hang import RECORDER
from raylm.parallel.group.mailbox import START_S, Mailbox
from raylm.parallel.group.ranks import AGAIN, serve_tasks
from raylm.parallel.group.watch import Watch

RANKS = "ranks"
"""Role of the ranks that a stage trains with."""
STOP_S = 30.0
"""Seconds that a stopped run waits for its ranks' last checkpoint."""


class RankGroup:
    """Ranks that wait for tasks. Made by `hold_ranks`; the next stage with the same `workers` table gets the same group."""

    def __init__(
        self, spec: WorkerSpec, sizes: tuple[int, ...], alone: bool, reserved: Places | None = None, role: str = RANKS
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._spec, self._sizes, self._alone, self._reserved, self._role = spec, sizes, alone, reserved, role
        remote: Any = ray.remote(Mailbox)
        self._mailbox = remote.options(
            num_cpus=0,
            # poll, next and members each wait in a thread of their own
            max_concurrency=4 * spec.count + 16,
            # beside the driver, without which it is of no use: the loss of any other node is survived
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        ).remote()
        self._task = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="raylm-ranks", daemon=True)
        self._thread.start()

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        on_row: Callable[[str, Any], None] | None = None,
        aside: Folder | None = None,
        run: str | None = None,
        step: int = -1,
    ) -> Any:
        """Run `function(ranks, *args)` on every rank; returns what rank 0 returned.

        Args:
            on_row: called at the driver with ("row", values), ("rewind", step) or ("rollback", step), as rank 0 sent them.
            aside: where the report of a hang is written.
            run: deaths are counted over all calls with this name, until one of a new `step`.

        Raises:
            GroupLost: the group died since the call that left what `function` needs (`Ranks.recall`).
            PlacementError: the group could not start, died too often, or hung in the same place twice.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the ranks wrote a step checkpoint first where the task heeds that.
            RaylmError: what a rank raised.
        """
        import ray

        self._task += 1
        watch = Watch(self._mailbox, self._spec, aside, self._sizes[0], self._alone, self._reserved, self._role)
        ray.get(self._mailbox.post.remote(self._task, [ray.put((function, args))], run, step))
        with _interruptible():
            try:
                while (outcome := self._poll(on_row)) is None:
                    watch.look()
            except KeyboardInterrupt:
                self._stop(on_row)
                raise
        self._mailbox.let_go.remote(self._task)
        return _opened(outcome)

    def _poll(self, on_row: Callable[[str, Any], None] | None) -> tuple[str, Any] | None:
        """Pass on what ranks sent; the outcome when there is one. Raises PlacementError when the group has ended."""
        rows, outcome = wait_for(self._mailbox.poll.remote(self._task), 60.0, "the mailbox of the ranks")
        for kind, values in rows:
            if kind == "note":
                print(f"  {values}", file=sys.stderr)
            elif on_row:
                on_row(kind, values)
        if outcome is None and not self._thread.is_alive():
            raise PlacementError(
                f"the group of {self._spec.count} ranks ended: {self._failure or 'it was closed'}", next=AGAIN
            ) from self._failure
        return outcome

    def _stop(self, on_row: Callable[[str, Any], None] | None) -> None:
        """Give the ranks `STOP_S` for a last step checkpoint. A second Ctrl-C does not wait."""
        heeded = wait_for(self._mailbox.ask_to_leave.remote(self._task, "the run was stopped"), 10.0, "the mailbox of the ranks")
        if not heeded:
            return
        print(
            f"\n  stopping: the ranks write a step checkpoint (up to {STOP_S:.0f} s; Ctrl-C again does not wait)", file=sys.stderr
        )
        until = time.monotonic() + STOP_S
        while time.monotonic() < until:
            if (outcome := self._poll(on_row)) is not None:
                said = "the ranks have left" if outcome[0] == "left" else "the run had just ended"
                print(f"  {said}", file=sys.stderr)
                return
        print(f"  no checkpoint within {STOP_S:.0f} s: the run goes on from the one before", file=sys.stderr)

    def pids(self) -> list[int]:
        """Process ids of the ranks of the running group, by rank."""
        return wait_for(self._mailbox.members.remote(), START_S, f"{self._spec.count} ranks to start")

    def close(self) -> None:
        """Let the ranks return, so that Ray Train ends its run."""
        import ray

        ray.get(self._mailbox.close.remote(), timeout=30)
        self._thread.join(timeout=30)
        ray.kill(self._mailbox)

    def _fit(self) -> None:
        import tempfile

        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from raylm.parallel.group.elastic import RESIZE_S, OnMainThread, Trainer

        spec, use_gpu = self._spec, self._spec.gpus > 0
        on_main: Any = OnMainThread(spec.preemption_notice, self._alone)
        try:
            Trainer(
                serve_tasks,
                train_loop_config={"mailbox": self._mailbox, "cpus": spec.cpus},
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=self._sizes[-1] if len(self._sizes) == 1 else (self._sizes[0], self._sizes[-1]),
                    elastic_resize_monitor_interval_s=RESIZE_S,
                    use_gpu=use_gpu,
                    resources_per_worker={"CPU": spec.cpus, **({"GPU": spec.gpus} if use_gpu else {})},
                    # without a word Ray Train packs: two ranks of `nodes = 2` would lie on one machine that has room for both
                    placement_strategy="SPREAD" if (spec.nodes or 1) > 1 else "PACK",
                ),
                # the mailbox counts deaths: what matters is not how many there were but whether steps lie between them.
                # step checkpoints are the stage's own, in its folder; Ray's storage holds only its bookkeeping
                run_config=RunConfig(
                    storage_path=tempfile.mkdtemp(prefix="raylm-train-"),
                    failure_config=FailureConfig(max_failures=-1),
                    worker_runtime_env={"env_vars": RECORDER | allocator(use_gpu)},
                    callbacks=[on_main],
                ),
                sizes=self._sizes,
                mailbox=self._mailbox,
                alone=self._alone,
                reserved=self._reserved,
            ).fit()
        except Exception as cause:
            self._failure = cause


def warm_ranks(workers: Workers, spec: WorkerSpec, sizes: tuple[int, ...] | None = None, role: str = RANKS) -> None:
    """Start the group for `spec` ahead of its stage, unless a stage still works with another one."""
    if not workers.holds(f"{role}:"):
        hold_ranks(workers, spec, sizes, role)


def hold_ranks(workers: Workers, spec: WorkerSpec, sizes: tuple[int, ...] | None = None, role: str = RANKS) -> RankGroup:
    """The group for `spec`, started now if none is held; starting goes on in the background until the first `call`.

    Args:
        sizes: numbers of ranks that the group may have, ascending; `spec.count` alone when it is not given.
        role: what the group is in its stage. Groups of several roles live side by side, one of each.
    """
    sizes = sizes or (spec.count,)
    workers.check_room({role: spec.role(count=sizes[0])}, f"the group of {role}")
    key = f"{role}:{','.join(map(str, sizes))} x {spec.cpus:g} CPU, {spec.gpus:g} GPU, {spec.nodes}, {spec.preemption_notice};"
    if not workers.holds(key):
        workers.release(f"{role}:")  # another one of the same role would hold what this one needs

    def start() -> RankGroup:
        # a group that may shrink and grow takes what it finds; one of a fixed size has places that stay its own
        reserved = workers.reserve({role: spec.role()}, f"the group of {role}") if len(sizes) == 1 else None
        return RankGroup(spec, sizes, not workers.submitted, reserved.places(role) if reserved else None, role)

    group = workers.hold(key, start, RankGroup.close)
    if group._failure or not group._thread.is_alive():
        workers.release(key)
        group = workers.hold(key, start, RankGroup.close)
    group._spec = spec  # the driver looks by this stage's `hang_s`, whichever stage started the group
    return group


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM at the driver is Ctrl-C: both stop a run with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _opened(outcome: tuple[str, Any]) -> Any:
    how, value = outcome
    if how in ("raised", "lost"):
        raise value
    return value
