"""One process of an rl stage, of the task of `tests/rl/copying.py` with two vLLM generators and two ranks, that loses its parties
one after the other and prints when. Arguments: a folder with the job; `loses`, or `whole` where nothing is lost (any more).

Each event is a line of JSON with its time: `iteration` was done, `accepted` completions, `lost` a party, `replaced` a generator.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

GENERATOR_AT, GOES_ON, RANK_AT, DRIVER_AT, ITERATIONS = 3, 3, 9, 13, 16
"""Iterations after which one is lost; those after the first loss that do not wait for the successor."""
REPLACED_S = 150.0


def say(**event: Any) -> None:
    print("\n" + json.dumps({**event, "at": time.time()}), flush=True)


class Losses:
    """What is lost, and when."""

    def __init__(self, cfg: Any, workers: Any, pool: Any) -> None:
        self._cfg, self._workers, self._pool = cfg, workers, pool
        self._wait, self._replaced = pool.wait, threading.Event()
        self._pid = 0
        pool.wait = self.wait

    def wait(self, timeout_s: float) -> list[Any]:
        """As the pool's: an iteration has asked its generators."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._pid = 0
            say(lost="generator")
            threading.Thread(target=self._watch, daemon=True).start()
        found = self._wait(timeout_s)
        if found:
            say(accepted=len(found))
        return found

    def after(self, iteration: int) -> None:
        """Called when an iteration is done."""
        import ray

        from raylm.parallel.group.driver import hold_ranks

        if iteration == GENERATOR_AT:
            found: Any = ray.get(self._pool._actors[0].__ray_call__.remote(lambda self: os.getpid()))
            self._pid = found
        elif iteration == GENERATOR_AT + GOES_ON:
            assert self._replaced.wait(REPLACED_S), "the lost generator has no successor"
        elif iteration == RANK_AT:
            os.kill(hold_ranks(self._workers, self._cfg.workers, self._cfg.sizes()).pids()[1], signal.SIGKILL)
            say(lost="rank")
        elif iteration == DRIVER_AT:
            say(lost="driver")
            os.kill(os.getpid(), signal.SIGKILL)

    def _watch(self) -> None:
        """Until the successor gets work: it holds the newest weights, and was asked what it says with them."""
        from raylm.inference.health import State

        for wanted in (False, True):
            while (self._pool.health()[0] is State.HEALTHY) is not wanted:
                time.sleep(0.02)
        say(replaced=True)
        self._replaced.set()


def main() -> None:
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.data.shards import read_parquet
    from raylm.inference.pool import hold_pool
    from raylm.rl.sample_ledger import SAMPLES
    from raylm.rl.stage import run
    from tests.rl.copying import GENERATIONS, PROMPTS, copying_stage
    from tests.stages import context

    cfg = copying_stage(
        iterations=ITERATIONS, save_every=2, workers={"count": 2}, generator={"count": 2}, check_export={"samples": 0}
    )
    workers = Workers(wanted_cpus=total(cfg.roles()))
    ctx: Any = context(Path(sys.argv[1]), "policy", cfg, workers)
    losses, lost = Losses(cfg, workers, hold_pool(workers, cfg.generator)), set[int]()
    log = ctx.log

    def logged(step: int, **values: Any) -> None:
        log(step, **values)
        say(iteration=step, reward=values["reward"])
        # those that are done again lose nothing
        if sys.argv[2] == "loses" and step not in lost:
            lost.add(step)
            losses.after(step)

    ctx.log = logged
    try:
        made = run(cfg, ctx)
    finally:
        workers.stop()
    ledger = read_parquet(made.folder, SAMPLES).to_pylist()
    samples = [(row["position"], row["row"], row["sample"]) for row in ledger]
    once = len(samples) == len(set(samples)) == ITERATIONS * PROMPTS * GENERATIONS
    say(done=True, once=once, proved=all(row["lowest"] == row["highest"] == row["version"] for row in ledger))


if __name__ == "__main__":
    main()
