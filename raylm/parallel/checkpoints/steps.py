"""Step checkpoints in a folder: which are complete, which are removed, and loading one into an engine.

work/step-00000040/   .metadata, shards of every rank, done.json     done.json is written last: without it, nothing is there
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.parallel.engine import Engine

DONE = "done.json"
MEASURED = "held_out_loss"
_STEP = "step-"
_LITTLE_BYTES = 1 << 20


class Keeping(NamedTuple):
    """Which step checkpoints stay."""

    last: int = 2
    """So many of the newest."""
    best: int = 0
    """So many of those with the lowest held-out loss."""
    every: int | None = None
    """All whose step is a multiple of it."""

    def chosen(self, steps: Mapping[int, float | None]) -> set[int]:
        """Of steps and their held-out losses (None: not measured) those that stay."""
        kept = set(sorted(steps)[len(steps) - self.last :]) | set(self.lowest(steps))
        return kept | {step for step in steps if self.every and step % self.every == 0}

    def lowest(self, steps: Mapping[int, float | None]) -> list[int]:
        """The `best` steps by held-out loss, the best first; of equal ones the earlier."""
        measured = [(loss, step) for step, loss in steps.items() if loss is not None and loss == loss]
        return [step for _, step in sorted(measured)[: self.best]]


def folder_of(work: Folder, step: int) -> Folder:
    """Where the checkpoint of the state after `step` optimizer steps lies."""
    return work / f"{_STEP}{step:08d}"


def load(engine: Engine, at: Folder) -> dict[str, Any]:
    """Read a step checkpoint, onto any number of ranks; returns its facts. Raises StorageError when it cannot be read."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    state = engine.state()
    try:
        load(state, storage_reader=_reader(at))
    except CheckpointException as cause:
        raise StorageError(
            f"a step checkpoint cannot be read: {reason_of(cause)}",
            where=at.uri,
            next="remove this folder and run the same command: it goes on from the checkpoint before",
        ) from cause
    engine.restore(state)
    facts = at.read_json(DONE)
    engine.done = facts["step"]
    return facts


def whole_checkpoints(work: Folder) -> list[int]:
    """Steps of the whole checkpoints below `work`, in order."""
    names = work.files()
    return sorted(_step_of(name) for name in names if name.startswith(_STEP) and name.endswith(f"/{DONE}"))


def newest_checkpoint(work: Folder) -> Folder | None:
    """The last whole step checkpoint below `work`."""
    steps = whole_checkpoints(work)
    return folder_of(work, steps[-1]) if steps else None


def measured_checkpoints(work: Folder) -> dict[int, float | None]:
    """Step and held-out loss of every whole checkpoint below `work`."""
    return {step: folder_of(work, step).read_json(DONE).get(MEASURED) for step in whole_checkpoints(work)}


def clean(work: Folder, after: int) -> None:
    """Remove checkpoints that were cut short, and whole ones of a later step than `after`."""
    whole = set(whole_checkpoints(work))
    names = work.files()
    for step in sorted({_step_of(name) for name in names if name.startswith(_STEP)}, reverse=True):
        if step not in whole or step > after:
            remove(work, step)


def keep_for_good(work: Folder, to: Folder, keeping: Keeping) -> list[int]:
    """Have the best and the every-so-many-steps checkpoints in `to` too; returns their steps.

    They stay in the work folder, which goes with the commit: a run that is cut short before it still finds the newest.
    """
    steps = keeping._replace(last=0).chosen(measured_checkpoints(work))
    for step in sorted(steps):
        # one that was put there before the run was cut short gives way to the one made again
        to.remove(folder_of(to, step).name)
        work.link(folder_of(work, step).name, to)
    return sorted(steps)


def remove(work: Folder, step: int) -> None:
    """Remove a checkpoint; a removal that is cut short leaves none that counts."""
    at = folder_of(work, step)
    at.remove(DONE)
    at.remove()


def reason_of(cause: Any) -> BaseException:
    """A rank's own reason (disk full, not allowed) in place of the collective's summary, a CheckpointException."""
    return next(iter(cause.failures.values()))[0] if getattr(cause, "failures", None) else cause


def is_full(cause: BaseException | None, at: Folder) -> bool:
    """Whether the disk below `at`, or what was left of a quota, is the cause of a failed write that has not been removed yet."""
    if cause is not None and at.is_local and os.path.isdir(at.uri) and shutil.disk_usage(at.uri).free < _LITTLE_BYTES:
        # torch's writer of tensors says that it failed, not why; and an error that went from rank to rank has lost its cause
        return True
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def writer(at: Folder) -> Any:
    """What torch.distributed.checkpoint writes shards with."""
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        return FileSystemWriter(at.uri)
    from raylm.model.torch_private import fsspec_writer

    return fsspec_writer(at.uri)


def _reader(at: Folder) -> Any:
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        return FileSystemReader(at.uri)
    from raylm.model.torch_private import fsspec_reader

    return fsspec_reader(at.uri)


def _step_of(name: str) -> int:
    return int(name.split("/")[0].removeprefix(_STEP))
