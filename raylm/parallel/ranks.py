"""Takes a function, leaves its result from a group of ranks that Ray Train started and keeps alive between stages.

    driver                         mailbox (actor)                 ranks 0..n-1 (one TorchTrainer.fit)
    group.call(f, args) -- post -->  task 7  -- next() ----------> f(ranks, *args)
         poll() <------ rows, result ------- log(), finish() <---- ranks.log(step, loss=...)

A rank that dies takes its group with it; Ray Train starts a new group, which is handed the same unfinished task again
and goes on from the task's own checkpoint. An exception is no death: it ends the task and is raised at the driver.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError, RaylmError, StageError
from raylm.core.workers import Workers, wait_for

START_S = 180.0
QUIET_S = 900.0
MOST_DEATHS = 3
# how gloo says that the other side of a connection is gone; NCCL raises torch's own DistError
GONE = re.compile(r"gloo.*(Connection|connection|peer|Socket|timed out|Timed out)", re.DOTALL)


class Ranks:
    """What a task function is handed on every rank."""

    def __init__(self, rank: int, world: int, device: Any, mailbox: Any) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.held: dict[str, Any] = {}
        """Things kept from one task to the next; empty again in a restarted group."""
        self._mailbox = mailbox
        self._sent: Any = None
        self.task = -1

    def log(self, step: int, **values: Any) -> None:
        """Send one metrics row to the driver; only rank 0's are kept."""
        self._send("row", {"step": step, **values})

    def rewind(self, rows: list[dict[str, Any]]) -> None:
        """Tell the driver that the history is `rows` and goes on from there."""
        self._send("rewind", rows)

    def settle(self) -> None:
        """Wait until what was sent has arrived; the mailbox's threads would let a later word overtake it."""
        import ray

        if self._sent is not None:
            ray.get(self._sent)
            self._sent = None

    def _send(self, kind: str, values: Any) -> None:
        if self.rank == 0:
            self.settle()
            self._sent = self._mailbox.log.remote(self.task, (kind, values))


class RankGroup:
    """Ranks that wait for tasks. Made by `hold_ranks`; the next stage with the same `workers` table gets the same group."""

    def __init__(self, spec: WorkerSpec) -> None:
        import ray

        self._spec = spec
        # poll, next and members each wait in a thread of their own
        remote: Any = ray.remote(Mailbox)
        self._mailbox = remote.options(num_cpus=0, max_concurrency=4 * spec.count + 16).remote(spec.count)
        self._task = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="raylm-ranks", daemon=True)
        self._thread.start()

    def call(
        self, function: Callable[..., Any], *args: Any, on_row: Callable[[str, Any], None] | None = None, quiet_s: float = QUIET_S
    ) -> Any:
        """Run `function(ranks, *args)` on every rank; returns what rank 0 returned.

        Args:
            on_row: called at the driver with ("row", values) or ("rewind", rows) in the order rank 0 sent them.
            quiet_s: seconds without a row or a result after which the group counts as hung.

        Raises:
            PlacementError: the group could not start, died too often or hung.
            RaylmError: what a rank raised.
        """
        import ray

        self._task += 1
        ray.get(self._mailbox.post.remote(self._task, [ray.put((function, args))]))
        quiet = 0.0
        while True:
            rows, outcome = wait_for(self._mailbox.poll.remote(self._task), 60.0, "the mailbox of the ranks")
            for kind, values in rows:
                if kind == "note":
                    print(f"  {values}", file=sys.stderr)
                elif on_row:
                    on_row(kind, values)
            if outcome is not None:
                return _opened(outcome)
            quiet = 0.0 if rows else quiet + Mailbox.POLL_S
            if not self._thread.is_alive():
                raise PlacementError(
                    f"the group of {self._spec.count} ranks ended: {self._failure or 'it was closed'}",
                    next="the same command goes on from the last step checkpoint",
                ) from self._failure
            if quiet > quiet_s:
                raise PlacementError(
                    f"{self._spec.count} ranks gave no sign for {quiet_s:.0f} s in {function.__name__}",
                    next="the same command goes on from the last step checkpoint",
                )

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
        from ray.train.torch import TorchConfig, TorchTrainer

        use_gpu = self._spec.gpus > 0
        try:
            TorchTrainer(
                _serve_tasks,
                train_loop_config={"mailbox": self._mailbox, "cpus": self._spec.cpus},
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=self._spec.count,
                    use_gpu=use_gpu,
                    resources_per_worker={"CPU": self._spec.cpus, **({"GPU": self._spec.gpus} if use_gpu else {})},
                ),
                # the mailbox counts deaths: what matters is not how many there were but whether steps lie between them.
                # step checkpoints are the stage's own, in its folder; Ray's storage holds only its bookkeeping
                run_config=RunConfig(
                    storage_path=tempfile.mkdtemp(prefix="raylm-train-"), failure_config=FailureConfig(max_failures=-1)
                ),
            ).fit()
        except Exception as cause:
            self._failure = cause


class Mailbox:
    """Hands tasks to ranks and their rows and results to the driver. A Ray actor; its methods wait, they never spin."""

    POLL_S = 1.0

    def __init__(self, world: int) -> None:
        self._world = world
        self._changed = threading.Condition()
        self._tasks: dict[int, Any] = {}
        self._outcomes: dict[int, tuple[str, Any]] = {}
        self._rows: list[tuple[str, Any]] = []
        self._pids: dict[int, int] = {}
        self._deaths = 0
        self._closed = False

    def join(self, rank: int, pid: int) -> None:
        with self._changed:
            if rank == 0 and self._pids:
                self._count_death()
            self._pids[rank] = pid
            self._changed.notify_all()

    def _count_death(self) -> None:
        """A group that dies again and again without one row in between will not get further by another try."""
        for task in self._tasks.keys() - self._outcomes.keys():
            self._deaths += 1
            self._rows.append(("note", "a worker died; a new group of ranks goes on from the last step checkpoint"))
            if self._deaths > MOST_DEATHS:
                error = PlacementError(
                    f"the ranks died {self._deaths} times without a step in between",
                    next="were they out of memory? lower micro_batch, or give them more",
                )
                self._outcomes.setdefault(task, ("raised", error))

    def members(self) -> list[int]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._pids) == self._world, timeout=START_S)
            return [self._pids[rank] for rank in sorted(self._pids)]

    def post(self, task: int, payload: list[Any]) -> None:
        with self._changed:
            self._tasks, self._rows, self._deaths = {task: payload}, [], 0
            self._changed.notify_all()

    def next(self, after: int) -> tuple[int, Any] | None:
        """The open task younger than `after`; None when the group is to end; waits for one of the two."""

        def open_task() -> int | None:
            return next((task for task in self._tasks if task > after and task not in self._outcomes), None)

        with self._changed:
            self._changed.wait_for(lambda: self._closed or open_task() is not None)
            task = open_task()
            return None if self._closed or task is None else (task, self._tasks[task])

    def log(self, task: int, row: tuple[str, Any]) -> None:
        with self._changed:
            if task in self._tasks:
                self._rows.append(row)
                self._deaths = 0
                self._changed.notify_all()

    def finish(self, task: int, outcome: tuple[str, Any]) -> None:
        with self._changed:
            # the first word counts: when one rank fails, what the others say is only a consequence
            self._outcomes.setdefault(task, outcome)
            self._changed.notify_all()

    def poll(self, task: int) -> tuple[list[tuple[str, Any]], tuple[str, Any] | None]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._rows) or task in self._outcomes, timeout=self.POLL_S)
            rows, self._rows = self._rows, []
            return rows, self._outcomes.get(task)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def warm_ranks(workers: Workers, spec: WorkerSpec) -> None:
    """Start the group for `spec` ahead of its stage, unless a stage still works with another one."""
    if not workers.holds("ranks:"):
        hold_ranks(workers, spec)


def hold_ranks(workers: Workers, spec: WorkerSpec) -> RankGroup:
    """The group for `spec`, started now if none is held; starting goes on in the background until the first `call`."""
    workers.check_room(spec, "the group of ranks")
    key = f"ranks:{spec.count}:{spec.cpus}:{spec.gpus}"
    if not workers.holds(key):
        workers.release("ranks:")  # one group at a time: another one would hold what this one needs
    group = workers.hold(key, lambda: RankGroup(spec), RankGroup.close)
    if group._failure or not group._thread.is_alive():
        workers.release(key)
        group = workers.hold(key, lambda: RankGroup(spec), RankGroup.close)
    return group


def _serve_tasks(config: dict[str, Any]) -> None:
    """What Ray Train runs on every rank: take tasks until the mailbox says that there are no more."""
    import os

    import ray
    import torch
    from ray import train
    from ray.train.torch import get_device

    place = train.get_context()
    mailbox = config["mailbox"]
    ranks = Ranks(place.get_world_rank(), place.get_world_size(), get_device(), mailbox)
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, int(config["cpus"])))
    ray.get(mailbox.join.remote(ranks.rank, os.getpid()))
    while (work := ray.get(mailbox.next.remote(ranks.task))) is not None:
        ranks.task, (payload,) = work
        function, args = ray.get(payload)
        try:
            result = function(ranks, *args)
        except Exception as cause:
            if _lost_a_peer(cause):
                raise  # no word to the driver: Ray Train starts the group anew, and the task is handed out again
            ranks.settle()
            ray.get(mailbox.finish.remote(ranks.task, ("raised", _packed(cause, ranks.rank))))
            raise  # the other ranks may wait in a collective: Ray Train ends them
        ranks.settle()
        if ranks.rank == 0:
            ray.get(mailbox.finish.remote(ranks.task, ("returned", result)))


def _lost_a_peer(cause: BaseException | None) -> bool:
    """Whether a collective failed because another rank is gone; that rank's end is the cause, not this one's code."""
    from torch.distributed import DistError

    while cause is not None:
        if isinstance(cause, DistError) or (isinstance(cause, RuntimeError) and GONE.search(str(cause))):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _packed(cause: Exception, rank: int) -> RaylmError:
    if isinstance(cause, RaylmError):
        return cause
    last = traceback.extract_tb(cause.__traceback__)[-1]
    return StageError(
        f"{type(cause).__name__} on rank {rank}: {cause}",
        where=f"{last.filename}:{last.lineno}",
        next="the same command goes on from the last step checkpoint",
    )


def _opened(outcome: tuple[str, Any]) -> Any:
    how, value = outcome
    if how == "raised":
        raise value
    return value
