"""raylm's contestant: a train stage under Ray, as the driver sees it. Arguments: a folder with `model` and `pairs`; `live` or
`stored` scores of the reference."""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.preference import work


def main() -> None:
    started = time.perf_counter()
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.train.config import Train
    from raylm.train.stage import run
    from tests.stages import context

    root = Path(sys.argv[1])
    cfg = Train.model_validate(
        {
            "stage": "train",
            "rows": "pairs",
            "model": str(root / "model"),
            "objective": {"kind": "dpo", "beta": work.BETA},
            **({} if sys.argv[2] == "live" else {"reference": sys.argv[2]}),
            "optimizer": {
                "lr": work.LR, "betas": work.BETAS, "weight_decay": 0.0, "clip": work.CLIP,
                "warmup": 0, "schedule": "constant",
            },
            "strategy": {"kind": "ddp"},
            "batch": work.BATCH,
            "micro_batch": work.BATCH,
            "steps": work.STEPS,
            "held_out_rows": 0,
            "save_every": 10**6,
            "workers": {"count": 1, "cpus": os.cpu_count() or 1},
        }
    )  # fmt: skip
    workers = Workers(wanted_cpus=total(cfg.roles()))
    ctx: Any = context(root, f"{sys.argv[2]}-{time.time_ns()}", cfg, workers)
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
    step_s = [seen[0][0] - started, *(later[0] - earlier[0] for earlier, later in pairwise(seen))]
    work.report(step_s[0], step_s, [loss for _, loss in seen])


if __name__ == "__main__":
    main()
