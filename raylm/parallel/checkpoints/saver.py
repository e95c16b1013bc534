"""Saves step checkpoints in the background; one that is not complete does not count.

copy()   state -> CPU memory                 the step waits for this alone
write()  in a thread, with a gloo group of its own: what lies beside gathered -> shards, each rank its own -> done.json
poll()   once a step while a save runs: have all ranks ended? then old checkpoints go, or a failure is counted
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from raylm.core.errors import RaylmError, StorageError
from raylm.core.storage import Folder
from raylm.parallel.checkpoints.steps import (
    DONE,
    MEASURED,
    Keeping,
    clean,
    folder_of,
    is_full,
    load,
    measured_checkpoints,
    reason_of,
    remove,
    writer,
)
from raylm.parallel.engine import Engine

SAVE_S = 1800.0
OWNER = "owner"
"""File that says which group of ranks writes here: one whose driver is gone may live on for a moment beside the next."""


class Beside(Protocol):
    """What is saved with a checkpoint and is no tensor."""

    def gather(self, group: Any) -> None:
        """Bring every rank's part to rank 0; called on each rank, in the saving thread, with its process group."""

    def put(self) -> None:
        """Write it; called on rank 0, when all shards are written."""


class Saved(NamedTuple):
    """How a save ended."""

    step: int
    seconds: float
    """From its begin to done.json."""
    failure: StorageError | None


class _Ended(NamedTuple):
    """How one rank's part of a save ended."""

    seconds: float
    failure: StorageError | None = None
    full: bool = False
    """The disk is."""
    superseded: bool = False
    """Another group writes here now: nothing may be touched any more."""


class _Flight(NamedTuple):
    step: int
    measured: float | None
    result: AsyncResult


class Saver:
    """Writes the step checkpoints of one engine, one at a time.

    Args:
        work: folder below which they lie.
        keeping: which of them stay.
        most_failed: failed saves in a row after which the failure is raised; a full disk raises at once.
    """

    def __init__(self, engine: Engine, work: Folder, keeping: Keeping, most_failed: int = 3) -> None:
        import torch.distributed as dist
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._engine, self._work, self._keeping, self._most_failed = engine, work, keeping, most_failed
        # two groups: the saving thread's collectives must not mix with those of the step; gloo: they carry no tensors
        pair: list[Any] = [
            dist.new_group(backend="gloo", timeout=timedelta(seconds=SAVE_S)) for _ in range(2 * dist.is_initialized())
        ]
        self.group, self._background = pair or (None, None)
        cuda = engine.device.type == "cuda"
        self._stager: Any = DefaultStager(
            StagingOptions(cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda)
        )
        self._threads = ThreadPool(1)
        self._flight: _Flight | None = None
        self._copy: Any = None
        self._whole: dict[int, float | None] = {}
        self._token = ""
        self.num_failed = 0
        """Saves that failed, in all."""
        self._in_a_row = 0

    def load(self, step: int | None = None) -> dict[str, Any] | None:
        """Go back to the whole checkpoint of `step`, or the newest; returns its facts, None when there is none.

        What was cut short is removed, and what is newer than it: from here on another future is written. Every rank must
        call; rank 0 looks and the others follow, for not all see a shared folder in the same state.
        """
        self.wait()
        whole: dict[int, float | None] = {}
        if self._engine.rank == 0:
            if not self._token:
                self._token = uuid4().hex
                self._work.make().write(OWNER, self._token)
            steps = measured_checkpoints(self._work)
            at = step if step is not None else max(steps, default=0)
            clean(self._work, at)
            whole = {found: loss for found, loss in steps.items() if found <= at}
        self._whole = self.of_rank_0(whole)
        if not self._whole:
            return None
        return load(self._engine, folder_of(self._work, max(self._whole)))

    def copy(self) -> tuple[float, Saved | None]:
        """Copy the engine's state to CPU memory, once the save before has ended; seconds of both, and how that one ended."""
        started = time.perf_counter()
        before = self.wait()
        self._copy = self._stager.stage(self._engine.state())
        return time.perf_counter() - started, before

    def write(self, facts: dict[str, Any], beside: Sequence[Beside] = (), number: int | None = None) -> None:
        """Write what `copy` copied, in the background.

        Args:
            facts: what done.json says; its `held_out_loss` is how good the state is.
            number: of the checkpoint; the engine's optimizer steps where a run counts by nothing else.
        """
        number = self._engine.done if number is None else number
        state, self._copy = self._copy, None
        work = (state, folder_of(self._work, number), {**facts, "step": self._engine.done}, beside)
        self._flight = _Flight(number, facts.get(MEASURED), self._threads.apply_async(self._write, work))

    def poll(self) -> Saved | None:
        """How the save that runs ended; None while it runs, and when none does. Every rank must call, as often as the others.

        Raises:
            StorageError: the disk is full, or too many saves in a row failed.
        """
        return self._settle() if self._flight and self._all(self._flight.result.ready()) else None

    def wait(self) -> Saved | None:
        """`poll`, at the end of the save that runs."""
        if self._flight is None:
            return None
        until = time.monotonic() + SAVE_S
        while not self._flight.result.ready() and time.monotonic() < until:
            self._flight.result.wait(1.0)
            # this wait has its own end
            self._engine.tick()
        if not self._flight.result.ready():
            raise StorageError(
                f"a step checkpoint was not written within {SAVE_S:.0f} s",
                where=folder_of(self._work, self._flight.step).uri,
                next="is the storage alive? the same command goes on from the checkpoint before",
            )
        return self._settle()

    @property
    def newest(self) -> int:
        """Number of the newest whole checkpoint; 0 where there is none."""
        return max(self._whole, default=0)

    def is_best(self, loss: float) -> bool:
        """Whether a state with this held-out loss would be among the best that are kept."""
        return self._engine.done in self._keeping.lowest({**self._whole, self._engine.done: loss})

    def best(self) -> tuple[int, float] | None:
        """Step and held-out loss of the best whole checkpoint."""
        found = self._keeping._replace(best=1).lowest(self._whole)
        return (found[0], self._whole[found[0]] or 0.0) if found else None

    def check_owner(self) -> None:
        """Raises StorageError when another group of ranks writes here now. Every rank must call, while no save runs."""
        if not self._owns(self.group):
            raise self._superseded()

    def close(self) -> None:
        """Await the last save, and let thread, groups and memory go."""
        import torch.distributed as dist

        self.wait()
        self._threads.terminate()
        self._stager.close()
        for group in (self.group, self._background):
            if group is not None:
                dist.destroy_process_group(group)

    def _write(self, state: Any, at: Folder, facts: dict[str, Any], beside: Sequence[Beside]) -> _Ended:
        """One save; a peer that is lost is raised."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_saver import save

        started = time.perf_counter()
        try:
            if not self._owns(self._background):
                return _Ended(time.perf_counter() - started, self._superseded(), superseded=True)
            for each in beside:
                each.gather(self._background)
            save(state, storage_writer=writer(at), process_group=self._background, no_dist=self._background is None)
            if not self._owns(self._background):
                return _Ended(time.perf_counter() - started, self._superseded(), superseded=True)
            if self._engine.rank == 0:
                for each in beside:
                    each.put()
                at.write_json(DONE, facts)
        except (CheckpointException, StorageError, OSError) as refused:
            cause = reason_of(refused)
            full = is_full(cause, at)
            said = (
                "the disk is full"
                if full
                else cause.what
                if isinstance(cause, RaylmError)
                else f"{type(cause).__name__}: {cause}"
            )
            failure = StorageError(
                f"a step checkpoint could not be written: {said}",
                where=at.uri,
                next="free space, then run the same command: it goes on from the checkpoint before",
            )
            return _Ended(time.perf_counter() - started, failure, full)
        return _Ended(time.perf_counter() - started)

    def _superseded(self) -> StorageError:
        return StorageError(
            "another run of this stage has taken over", where=self._work.uri, next="that one goes on; this one ends here"
        )

    def _owns(self, group: Any) -> bool:
        """Whether no later group has begun to write here; rank 0 looks, all ranks hear it."""
        import torch.distributed as dist

        theirs = self._token and (not self._work.exists(OWNER) or self._work.read(OWNER).decode() != self._token)
        found = [not theirs]
        if group is not None:
            dist.broadcast_object_list(found, src=0, group=group)
        return found[0]

    def _settle(self) -> Saved:
        assert self._flight is not None
        flight, self._flight = self._flight, None
        ended: _Ended = flight.result.get()
        told: list[_Ended] = self._of_all(ended)
        failure = next((each.failure for each in told if each.failure), None)
        if failure is None:
            self._in_a_row = 0
            self._whole[flight.step] = flight.measured
            self._prune()
            return Saved(flight.step, ended.seconds, None)
        if any(each.superseded for each in told):
            raise failure
        self.num_failed += 1
        self._in_a_row += 1
        if self._engine.rank == 0:
            # what cannot be removed now does not count, and is removed at the next start
            with suppress(OSError):
                remove(self._work, flight.step)
        if any(each.full for each in told) or self._in_a_row >= self._most_failed:
            raise failure
        return Saved(flight.step, ended.seconds, failure)

    def _prune(self) -> None:
        kept = self._keeping.chosen(self._whole)
        for step in sorted(self._whole.keys() - kept):
            del self._whole[step]
            if self._engine.rank == 0:
                remove(self._work, step)

    def _all(self, ended: bool) -> bool:
        import torch
        import torch.distributed as dist

        if self.group is None:
            return ended
        found = torch.tensor(int(ended))
        dist.all_reduce(found, op=dist.ReduceOp.MIN, group=self.group)
        return bool(found)

    def _of_all(self, mine: Any) -> list[Any]:
        import torch.distributed as dist

        found = [mine] * self._engine.world
        if self.group is not None:
            dist.all_gather_object(found, mine, group=self.group)
        return found

    def of_rank_0(self, mine: Any) -> Any:
        """What rank 0 holds as `mine`. Every rank must call, at the same point of its step."""
        import torch.distributed as dist

        found = [mine]
        if self.group is not None:
            dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]
