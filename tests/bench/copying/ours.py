"""raylm's contestant: an rl stage with Ray, a generator of vLLM and a trainer. Arguments: a folder with the job, a seed."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.copying import work

PARTS = ("generate_s", "reward_s", "score_s", "update_s", "sync_s", "step_s", "idle_s")


def main() -> None:
    started = time.perf_counter()
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.rl.stage import run
    from tests.rl.copying import copying_stage
    from tests.stages import context

    optimizer = {
        "lr": work.LR,
        "betas": work.BETAS,
        "weight_decay": 0.0,
        "clip": work.CLIP,
        "warmup": 0.0,
        "schedule": "constant",
    }
    cfg = copying_stage(
        iterations=work.STEPS,
        seed=int(sys.argv[2]),
        optimizer=optimizer,
        strategy={"kind": "ddp"},
        check_export={"samples": 0},
    )
    workers = Workers(wanted_cpus=total(cfg.roles()))
    ctx: Any = context(Path(sys.argv[1]), f"ours-{time.time_ns()}", cfg, workers)
    seen: list[tuple[float, float]] = []
    parts: dict[str, list[float]] = {}
    log = ctx.log

    def logged(step: int, **values: Any) -> None:
        seen.append((time.perf_counter(), values["reward"]))
        for name in PARTS:
            if name in values:
                parts.setdefault(name, []).append(values[name])
        log(step, **values)

    ctx.log = logged
    try:
        run(cfg, ctx)
    finally:
        workers.stop()
    work.report(started, seen, parts={name: round(statistics.median(of), 4) for name, of in parts.items()})


if __name__ == "__main__":
    main()
