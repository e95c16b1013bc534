"""Takes work units and a function, leaves each unit done once and marked: Ray Data runs them, a rerun skips the marked.

    units -> [mark is there and fits?] -> ray.data map: work(unit) -> files, then mark -> marks, in unit order
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from raylm.core.config import WorkerSpec, digest_of
from raylm.core.context import Context
from raylm.core.errors import RaylmError
from raylm.core.storage import Folder

Plain = dict[str, Any]


def run_marked(ctx: Context, name: str, units: list[Plain], work: Callable[[int, Plain], Plain], workers: WorkerSpec,
               unit: str = "units") -> list[Plain]:
    """Do what is not marked yet; leaves every unit's mark, in order.

    Args:
        name: of this pass; its marks are `{name}-00012.json` in `ctx.work`.
        units: JSON values; a mark of another unit under the same number is not taken for this one's.
        work: (number, unit) -> JSON values for the mark. It must write its files in one step each, and the same
            bytes when it is called again: it is, when a worker dies.

    Raises:
        RaylmError: what a worker raised, as it raised it.
    """
    sweep(ctx.out)
    ctx.work.make()
    todo = [at for at, plain in enumerate(units) if read_mark(ctx.work, name, at, plain) is None]
    with ctx.progress(len(units), unit) as bar:
        done = len(units) - len(todo)
        bar.to(done)
        if todo:
            ctx.workers.check_room(workers, ctx.stage)
            for _ in _through_ray(todo, _marked(ctx.work, name, units, work), workers):
                done += 1
                bar.to(done)
    sweep(ctx.out)
    marks = [read_mark(ctx.work, name, at, plain) for at, plain in enumerate(units)]
    return [mark for mark in marks if mark is not None]


def sweep(folder: Folder) -> None:
    """Remove what a killed writer left half-written."""
    for name in folder.files() if folder.is_local else ():
        if os.path.basename(name).startswith(".writing-"):
            folder.remove(name)


def read_mark(folder: Folder, name: str, at: int, plain: Plain) -> Plain | None:
    """The mark of unit `at`; None when there is none or it belongs to another unit."""
    file = f"{name}-{at:05d}.json"
    if not folder.exists(file):
        return None
    mark = folder.read_json(file)
    return mark if mark["unit"] == digest_of(plain) else None


def _marked(folder: Folder, name: str, units: list[Plain], work: Callable[[int, Plain], Plain]) -> Callable[[Plain], Plain]:
    def one(row: Plain) -> Plain:
        at = int(row["at"])
        made = work(at, units[at])
        folder.write_json(f"{name}-{at:05d}.json", {"unit": digest_of(units[at]), **made})
        return {"at": at}

    return one


def _through_ray(todo: list[int], one: Callable[[Plain], Plain], workers: WorkerSpec) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # a worker that died is tried again by Ray; an error of our own is not, it would only come again
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows = ray.data.from_items([{"at": at} for at in todo], override_num_blocks=len(todo))
    pool = ray.data.TaskPoolStrategy(size=min(workers.count, len(todo)))
    try:
        yield from rows.map(one, compute=pool, num_cpus=workers.cpus).iter_rows()
    except ray.exceptions.RayError as cause:
        raise _own(cause) from None


def _own(error: BaseException) -> BaseException:
    """The RaylmError that lies within what Ray wrapped around it; without one, the error as it is."""
    at: BaseException | None = error
    for _ in range(10):
        if isinstance(at, RaylmError):
            return at
        at = getattr(at, "cause", None) or (at.__cause__ if at else None)
    return error
