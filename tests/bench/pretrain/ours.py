"""Takes a number of processes and a folder with rows, leaves the speed of a train stage under Ray, as the driver sees it."""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.pretrain import work


def main() -> None:
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.train.config import Train
    from raylm.train.stage import run
    from tests.stages import context

    world, root = int(sys.argv[1]), Path(sys.argv[2])
    cfg = Train.model_validate(
        {
            "stage": "train",
            "rows": "tokens",
            "model": work.SHAPE,
            "optimizer": {
                "lr": work.LR, "betas": work.BETAS, "weight_decay": work.DECAY, "clip": work.CLIP,
                "warmup": 0, "schedule": "constant",
            },
            "strategy": {"kind": "ddp"},
            "batch": work.BATCH,
            "micro_batch": work.BATCH // world,
            "steps": work.STEPS,
            "held_out_rows": 0,
            "save_every": 10**6,
            "compile": len(sys.argv) > 3,
            "workers": {"count": world, "cpus": (os.cpu_count() or 1) / world},
        }
    )  # fmt: skip
    workers = Workers(wanted_cpus=total(cfg.roles()))
    ctx: Any = context(root, f"model-{time.time_ns()}", cfg, workers)
    seen: list[tuple[float, float]] = []
    log = ctx.log

    def logged(step: int, **values: Any) -> None:
        seen.append((time.perf_counter(), values["loss"]))
        log(step, **values)

    ctx.log = logged
    try:
        run(cfg, ctx)
    finally:
        workers.stop()
    # from row to row at the driver: everything that raylm and Ray do for a step is in it
    work.tell([0.0, *(b[0] - a[0] for a, b in pairwise(seen))], [loss for _, loss in seen])


if __name__ == "__main__":
    main()
