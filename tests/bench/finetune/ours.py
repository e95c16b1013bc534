"""raylm's contestant: a train stage under Ray, as the driver sees it. Arguments: a folder with `model` and `dialogues`; lora,
qlora or full."""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.finetune import work


def main() -> None:
    started = time.perf_counter()
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.train.config import Train
    from raylm.train.stage import run
    from tests.stages import context

    root = Path(sys.argv[1])
    adapter = {"kind": sys.argv[2], "rank": work.LORA["r"], "alpha": work.LORA["lora_alpha"]}
    cfg = Train.model_validate(
        {
            "stage": "train",
            "rows": "dialogues",
            "document_mask": True,
            "model": str(root / "model"),
            **({"adapter": adapter} if sys.argv[2] != "full" else {}),
            "optimizer": {
                "lr": work.LR, "betas": work.BETAS, "weight_decay": 0.0, "clip": work.CLIP,
                "warmup": 0, "schedule": "constant",
            },
            "strategy": {"kind": "ddp"},
            "dtype": "float32",
            "batch": work.ROWS,
            "micro_batch": work.ROWS,
            "steps": work.STEPS,
            "held_out_rows": 0,
            "save_every": 10**6,
            "workers": {"count": 1, "cpus": os.cpu_count() or 1},
        }
    )  # fmt: skip
    workers = Workers(wanted_cpus=total(cfg.roles()))
    ctx: Any = context(root, f"{sys.argv[2]}-{time.time_ns()}", cfg, workers)
    seen: list[tuple[float, float, float]] = []
    log = ctx.log

    def logged(step: int, **values: Any) -> None:
        seen.append((time.perf_counter(), values["trainable_tokens_per_s"] * values["step_s"], values["loss"]))
        log(step, **values)

    ctx.log = logged
    try:
        run(cfg, ctx)
    finally:
        workers.stop()
    # from row to row at the driver: everything that raylm and Ray do for a step is in it
    step_s = [seen[0][0] - started, *(later[0] - earlier[0] for earlier, later in pairwise(seen))]
    work.report(step_s[0], step_s, [count for _, count, _ in seen], [loss for _, _, loss in seen])


if __name__ == "__main__":
    main()
