"""A run of a train stage that is killed in a given way in mid-run; a program of its own.

driver    the process itself is killed after step 5
host      a cluster of two machines with a rank on each; one is switched off after step 5, another one joins
drained   the same, but Ray is told beforehand that the machine will be taken away
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from raylm.core.context import Context
from raylm.core.workers import SUBMITTED, Workers
from raylm.train.config import Train
from raylm.train.objectives.next_token import NextToken
from raylm.train.stage import run
from tests.stages import context

STEPS = 12


def config(**table: Any) -> Train:
    usual = {
        "stage": "train",
        "rows": "tokens",
        "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 32},
        "batch": 6,
        "micro_batch": 2,
        "steps": STEPS,
        "save_every": 2,
        "evaluate_every": 4,
        "optimizer": {"lr": 1e-2},
        "workers": {"count": 2},
    }
    return Train(**usual | table)


def after_step(ctx: Context, last: int, act: Callable[[], None]) -> list[int]:
    """Let `act` happen once, when the driver hears of step `last`; returns the list of steps it hears of."""
    log, heard = ctx.log, []

    def hear(step: int, **values: Any) -> None:
        log(step, **values)
        heard.append(step)
        if step == last and heard.count(last) == 1:
            act()

    ctx.log = hear
    return heard


def driver_dies(root: Path, name: str) -> None:
    workers = Workers(wanted_cpus=4)
    ctx = context(root, name, config(), workers)
    after_step(ctx, 5, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run(config(), ctx)


class Slow(NextToken):
    """The usual loss, so slowly that a notice comes while a tiny model learns."""

    kind: Literal["custom"] = "custom"

    def loss(self, *args: Any) -> Any:
        time.sleep(0.5)
        return super().loss(*args)


def host_dies(root: Path, name: str) -> None:
    lose_a_host(root, name, config(), lambda cluster, node: cluster.remove_node(node, allow_graceful=False))


def host_is_drained(root: Path, name: str) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "1"

    def drain(cluster: Any, node: Any) -> None:
        in_a_minute = int((time.time() + 60) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(cluster.address).drain_node(node.node_id, reason, "spot machine", in_a_minute)
        assert accepted, why

    lose_a_host(root, name, config(objective={"kind": "custom", "path": f"{__spec__.name}:Slow"}), drain)


def lose_a_host(root: Path, name: str, cfg: Train, lose: Callable[[Any, Any], None]) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    # a cluster that was there before: what `ray job submit` tells its driver
    os.environ.update({SUBMITTED: "{}", "RAY_ADDRESS": cluster.address})
    workers = Workers()
    ctx = context(root, name, cfg, workers)

    def lose_one() -> None:
        lose(cluster, nodes[1])
        cluster.add_node(num_cpus=1)

    heard = after_step(ctx, 5, lose_one)
    run(cfg, ctx)
    workers.stop()
    cluster.shutdown()
    print(f"heard {heard}")


if __name__ == "__main__":
    {"driver": driver_dies, "host": host_dies, "drained": host_is_drained}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
