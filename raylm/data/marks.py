"""Resumable parallel passes: Ray Data runs a function over work units, each finished one is marked, a rerun skips the marked.

units -> [mark is there and fits?] -> ray.data map: work(unit) -> files, then mark -> marks, in unit order
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raylm.core.config import WorkerSpec, digest_of
from raylm.core.context import Context
from raylm.core.errors import RaylmError, StorageError
from raylm.core.room import Patience
from raylm.core.storage import HALF_WRITTEN, Folder

Plain = dict[str, Any]
BEGUN = ".begun"
LOOK_S = 5.0


def run_marked(
    ctx: Context, name: str, units: list[Plain], work: Callable[[int, Plain], Plain], workers: WorkerSpec, unit: str = "units"
) -> list[Plain]:
    """Do the units that are not marked yet; returns every unit's mark, in order.

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
            # one goes on where machines were lost in the middle; whether all have a place is asked before a run starts
            ctx.workers.check_room({"workers": workers.role(count=1)}, ctx.stage)
            with _words(ctx, name, workers) as patience:
                for _ in _through_ray([(at, units[at]) for at in todo], _marked(ctx, name, work), workers):
                    patience.again()
                    done += 1
                    bar.to(done)
    sweep(ctx.out)
    return [_there(ctx.work, name, at, plain) for at, plain in enumerate(units)]


def sweep(folder: Folder) -> None:
    """Remove what a killed writer left half-written."""
    # `files` does not list them, and a bucket has none
    for at, _, names in os.walk(folder.uri) if folder.is_local else ():
        for name in names:
            if name.startswith(HALF_WRITTEN):
                os.unlink(os.path.join(at, name))


def read_mark(folder: Folder, name: str, at: int, plain: Plain) -> Plain | None:
    """The mark of unit `at`; None when there is none or it belongs to another unit."""
    file = f"{name}-{at:05d}.json"
    if not folder.exists(file):
        return None
    mark = folder.read_json(file)
    return mark if mark["unit"] == digest_of(plain) else None


def _there(folder: Folder, name: str, at: int, plain: Plain) -> Plain:
    mark = read_mark(folder, name, at, plain)
    if mark is None:
        # without it the unit's files would be missing without any error
        gone = folder.path(f"{name}-{at:05d}.json")
        raise StorageError("the mark of a finished unit is gone", where=gone, next="run the same command again")
    return mark


@contextmanager
def _words(ctx: Context, name: str, workers: WorkerSpec) -> Iterator[Patience]:
    """Reports what is waited for while no unit is worked on, in a thread: Ray Data reports nothing."""
    patience, over = Patience(ctx.stage), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            if patience.is_long and not any(_is_begun(ctx.work, file) for file in ctx.work.files()):
                patience.look({"worker": workers.role(count=1)})

    looker = threading.Thread(target=look, name="raylm-room", daemon=True)
    # on a cluster of our own no other job takes the cores
    if ctx.workers.submitted:
        for file in ctx.work.files():
            if file.endswith(BEGUN):
                ctx.work.remove(file)
        looker.start()
    try:
        yield patience
    finally:
        over.set()
        if looker.ident:
            looker.join()


def _is_begun(folder: Folder, file: str) -> bool:
    return file.endswith(BEGUN) and not folder.exists(f"{file.removesuffix(BEGUN)}.json")


def _marked(ctx: Context, name: str, work: Callable[[int, Plain], Plain]) -> Callable[[Plain], Plain]:
    folder, is_submitted = ctx.work, ctx.workers.submitted

    def one(row: Plain) -> Plain:
        at, plain = int(row["at"]), json.loads(row["unit"])
        mark = f"{name}-{at:05d}.json"
        # of another unit: a run that dies between these files and their mark must not leave it beside them
        folder.remove(mark)
        if is_submitted:
            folder.write(f"{name}-{at:05d}{BEGUN}", "")
        try:
            result = work(at, plain)
        except RaylmError as cause:
            # as a row: Ray Data keeps only the text of an exception
            return {"at": at, "error": pickle.dumps(cause)}
        folder.write_json(mark, {"unit": digest_of(plain), **result})
        return {"at": at, "error": b""}

    return one


def _through_ray(todo: list[tuple[int, Plain]], one: Callable[[Plain], Plain], workers: WorkerSpec) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # one operator is all there is: with a reservation for others Ray Data holds a task back on two cores
    context.op_resource_reservation_enabled = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # a unit travels as text with its row: a task gets its own and no other
    rows = ray.data.from_items([{"at": at, "unit": json.dumps(plain)} for at, plain in todo], override_num_blocks=len(todo))
    pool = ray.data.TaskPoolStrategy(size=min(workers.count, len(todo)))
    for row in rows.map(one, compute=pool, num_cpus=workers.cpus, num_gpus=workers.gpus or None).iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield row
