"""Takes three training stages that do nothing, leaves how long Ray Train makes a job wait for them: one fit per stage (the
usual way) against raylm's group of ranks, which is started once and kept. Whole processes, alternating, medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

STAGES, ROUNDS, RANKS = 3, 3, 2

OURS = """
from raylm.core.config import WorkerSpec
from raylm.core.workers import Workers
from raylm.parallel.group.driver import hold_ranks
from tests.bench.startup import meet

workers = Workers(wanted_cpus=4)
print([hold_ranks(workers, WorkerSpec(count={ranks})).call(meet, stage) for stage in range({stages})])
workers.stop()
"""

THEIRS = """
import tempfile, ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from tests.bench.startup import meet_and_write

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
seen = []
for stage in range({stages}):
    out = tempfile.mkdtemp()
    TorchTrainer(meet_and_write, train_loop_config=dict(stage=stage, out=out), torch_config=TorchConfig(backend="gloo"),
                 scaling_config=ScalingConfig(num_workers={ranks}), run_config=RunConfig(storage_path=out)).fit()
    seen.append(float(open(out + "/met").read()))
print(seen)
ray.shutdown()
"""


def meet(ranks: object, stage: int) -> float:
    """What a stage does here: all ranks add a number, so that a group that only seems to run is noticed."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([float(stage + 1)])
    dist.all_reduce(total)
    return float(total)


def meet_and_write(config: dict) -> None:
    """The same inside a plain TorchTrainer."""
    from ray import train

    met = meet(None, config["stage"])
    if train.get_context().get_world_rank() == 0:
        with open(f"{config['out']}/met", "w") as file:
            file.write(str(met))


def timed(code: str) -> tuple[float, str]:
    """Wall seconds of a fresh Python that runs `code`, and the last line it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code.format(stages=STAGES, ranks=RANKS)], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout.strip().splitlines()[-1]


def main() -> None:
    import ray

    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    said = set()
    for _ in range(ROUNDS):
        for name, code in (("ours", OURS), ("theirs", THEIRS)):
            spent, result = timed(code)
            seconds[name].append(spent)
            said.add(result)
            print(f"{name}: {spent:.1f} s {result}", flush=True)
    ours, theirs = (round(statistics.median(seconds[name]), 2) for name in ("ours", "theirs"))
    expected = str([float(RANKS * (stage + 1)) for stage in range(STAGES)])
    print(
        json.dumps(
            {
                "name": "startup",
                "peer": "ray train, one TorchTrainer.fit per stage",
                "peer_version": ray.__version__,
                "ours": ours,
                "theirs": theirs,
                "unit": f"s for {STAGES} empty stages on {RANKS} ranks, Ray's start included",
                "ratio": round(theirs / ours, 2),
                "goal": 1.5,
                "quality": {"all_ranks_met": said == {expected}},
                "ok": said == {expected} and theirs / ours >= 1.5,
            }
        )
    )


if __name__ == "__main__":
    main()
