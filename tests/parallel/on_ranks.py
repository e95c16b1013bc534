"""Runs a function on several gloo ranks. Ranks are forked from a process that has imported torch."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOAD = ["tests.parallel.preload"]


def on_ranks(world: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """`function(rank, world, *args)` inside a process group of `world` gloo ranks; the returned values by rank.

    The function must stand in a module (it is imported by name). Raises AssertionError with the traceback of the first
    rank that failed.
    """
    import torch

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as at:
        ranks = [context.Process(target=_rank, args=(rank, world, at, function, args)) for rank in range(world)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(timeout_s)
        alive = [index for index, rank in enumerate(ranks) if rank.is_alive()]
        for rank in ranks:
            rank.kill()
        said = sorted(Path(at).glob("failed-*"), key=lambda path: path.stat().st_mtime)
        assert not said, f"{said[0].name}:\n{said[0].read_text()}"
        assert not alive, f"ranks {alive} of {world} did not end within {timeout_s} s"
        codes = [rank.exitcode for rank in ranks]
        assert not any(codes), f"exit codes {codes}"
        return [torch.load(Path(at) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, at: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{at}/store", rank=rank, world_size=world)
        torch.save(function(rank, world, *args), Path(at) / f"{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (Path(at) / f"failed-{rank}").write_text(traceback.format_exc())
        raise
