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
from raylm.parallel.mailbox import START_S, Mailbox

QUIET_S = 900.0
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
