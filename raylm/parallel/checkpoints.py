"""Takes an engine at a step, leaves a step checkpoint that is whole or does not count; and finds the newest of them."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.parallel.engine import Engine

DONE = "done.json"


def save(engine: Engine, at: Folder, facts: dict[str, Any]) -> None:
    """Write model and optimizer, every rank its shard; `done.json` with `facts` comes last and makes it whole."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        at.make()
        save(engine.state(), storage_writer=_writer(at))
    except CheckpointException as cause:
        # name the rank's own reason (disk full, not allowed) rather than the collective's summary
        reason = next(iter(cause.failures.values()))[0]
        raise StorageError(
            f"a step checkpoint could not be written: {reason}",
            where=at.uri,
            next="free space, then run the same command: it goes on from the checkpoint before",
        ) from cause
    if engine.world > 1:
        dist.barrier()
    if engine.rank == 0:
        at.write_json(DONE, {"step": engine.done, **facts})


def load(engine: Engine, at: Folder) -> dict[str, Any]:
    """Read what `save` wrote, onto any number of ranks; returns its facts."""
    from torch.distributed.checkpoint.state_dict_loader import load

    state = engine.state()
    load(state, storage_reader=_reader(at))
    engine.restore(state)
    facts = at.read_json(DONE)
    engine.done = facts["step"]
    return facts


def newest_checkpoint(work: Folder) -> Folder | None:
    """The last whole step checkpoint below `work`; one without `done.json` was cut short and does not count."""
    steps = sorted({name.split("/")[0] for name in work.files() if name.endswith(f"/{DONE}")}) if work.exists() else []
    return work / steps[-1] if steps else None


def prune_checkpoints(work: Folder, keep: int) -> None:
    """Remove all but the `keep` newest whole step checkpoints, and what was cut short before them."""
    if not work.exists():
        return
    whole = sorted({name.split("/")[0] for name in work.files() if name.endswith(f"/{DONE}")})
    every = sorted({name.split("/")[0] for name in work.files() if name.startswith("step-")})
    for name in every:
        if whole and name not in whole[-keep:] and name < whole[-1]:
            work.remove(name)


def _writer(at: Folder) -> Any:
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        return FileSystemWriter(at.uri)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    return FsspecWriter(at.uri)


def _reader(at: Folder) -> Any:
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        return FileSystemReader(at.uri)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(at.uri)
