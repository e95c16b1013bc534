"""Takes ranks, leaves what tests of the rank group ask of them."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist

from raylm.core.errors import DataError
from raylm.parallel.ranks import Ranks


def count(ranks: Ranks, name: str) -> tuple[int, int]:
    """How often this task ran in this group, and the number of ranks."""
    ranks.held[name] = ranks.held.get(name, 0) + 1
    return ranks.held[name], ranks.world


def chatter(ranks: Ranks, rows: int) -> str:
    ranks.rewind([])
    for step in range(rows):
        ranks.log(step, rank=ranks.rank)
    return "done"


def stumble(ranks: Ranks, rank: int, ours: bool) -> None:
    """One rank raises while the other waits for it in a collective."""
    if ranks.rank == rank:
        if ours:
            raise DataError("no rows", where="shard 3", next="add some")
        raise ValueError("seven is no number")
    dist.all_reduce(torch.ones(1))


def meet_often(ranks: Ranks, meetings: int) -> tuple[float, int]:
    """Meets the other ranks every 50 ms, and says so."""
    total = torch.zeros(1)
    for step in range(meetings):
        met = torch.ones(1)
        dist.all_reduce(met)
        total += met
        ranks.log(step, pid=os.getpid())
        time.sleep(0.05)
    return float(total), os.getpid()
