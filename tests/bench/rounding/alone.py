"""Runs the `base` stage of a job whose rows are made, in this process alone: the stage's own loop on one rank, without Ray, so
that it can be stopped for a while and needs one core. The same command goes on from its last step checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from raylm.core.artifact import Checkpoint
from raylm.job import load
from raylm.mixture.proxy import Alone
from raylm.train.learner import train
from raylm.train.stage import prepared
from tests.stages import context


class Said(Alone):
    """One rank that prints its losses."""

    def log(self, step: int, **values: Any) -> None:
        if "loss" in values:
            print(f"step {step}: {values['loss']:.3f}, {values.get('step_s', 0):.1f} s", flush=True)


def main(job: Path) -> None:
    import torch

    torch.set_num_threads(1)
    stage: Any = load(job).stages["base"]
    ctx = context(job.parent / job.parent.name, "base", stage)
    cfg, setup, _ = prepared(stage, ctx)
    ranks: Any = Said("cpu")
    done = train(ranks, cfg, setup)
    made = ctx.commit(Checkpoint, facts={"parameters": done["parameters"], "steps": setup.steps}, metrics=done["metrics"])
    print(made.facts, made.metrics, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
