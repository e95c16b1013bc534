"""Tasks that the tests of the rank group run on ranks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from raylm.core.errors import DataError
from raylm.parallel.group.preemption import Leave
from raylm.parallel.group.ranks import Ranks


def count(ranks: Ranks, name: str) -> tuple[int, int]:
    """How often this task ran in this group, and the number of ranks."""
    ranks.held[name] = ranks.held.get(name, 0) + 1
    return ranks.held[name], ranks.world


def recall(ranks: Ranks, name: str) -> int:
    return ranks.recall(name)


def chatter(ranks: Ranks, rows: int) -> str:
    ranks.rewind(0)
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
        ranks.heartbeat.mark("meeting", step)
        met = torch.ones(1)
        dist.all_reduce(met)
        total += met
        ranks.log(step, pid=os.getpid())
        time.sleep(0.05)
    return float(total), os.getpid()


def sit_still(ranks: Ranks, rank: int, steps: int, phase: str = "", only_once: str = "") -> int:
    """Meets the other ranks; from step 2 on, `rank` stays in `phase` for ever; or only if the file `only_once` is not there."""
    for step in range(steps):
        ranks.heartbeat.mark("data", step)
        if ranks.rank == rank and step == 2 and not (only_once and os.path.exists(only_once)):
            ranks.heartbeat.mark(phase, step)
            if only_once:
                open(only_once, "w").close()
            time.sleep(600)
        ranks.heartbeat.mark("backward", step)
        dist.all_reduce(torch.ones(3))
        ranks.log(step)
    return steps


def heed(ranks: Ranks, steps: int, at: str) -> tuple[int, str]:
    """Counts steps, and on from the number that lies in the file `at`; writes it and leaves when any rank is asked to."""
    done = int(Path(at).read_text()) if Path(at).exists() else 0
    for step in range(done, steps):
        flag = torch.tensor(float(bool(ranks.heartbeat.asked())))
        dist.all_reduce(flag)
        if flag:
            if ranks.rank == 0:
                Path(at).write_text(str(step))
            dist.barrier()
            raise Leave(ranks.heartbeat.asked())
        ranks.log(step, pid=os.getpid(), world=ranks.world)
        time.sleep(0.05)
    return steps, "done"
