"""A train stage on a cluster of two nodes that loses one in mid-run and later gets another; its results, in a folder.

Run as a process of its own (`python -m tests.parallel.group.elastic_run FOLDER`): a process has one Ray cluster.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

from raylm.train.objectives.next_token import NextToken


class Slow(NextToken):
    """The usual loss, so slowly that a cluster can change while a tiny model learns."""

    kind: Literal["custom"] = "custom"

    def loss(self, *args: Any) -> Any:
        time.sleep(0.1)
        return super().loss(*args)


KEYS: dict[str, Any] = {
    "stage": "train",
    "rows": "tokens",
    "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "max_length": 32},
    # 3 ranks are no legal size: tensor = 2 takes 2 or 4
    "mesh": {"tensor": 2},
    "batch": 6,
    "micro_batch": 2,
    "objective": {"kind": "custom", "path": "tests.parallel.group.elastic_run:Slow"},
    "steps": 100,
    "save_every": 20,
    "optimizer": {"lr": 1e-2},
    "held_out_rows": 0,
    "workers": {"count": 4, "least": 1},
}


def main(root: Path) -> dict[str, Any]:
    import ray
    from ray.cluster_utils import Cluster

    from raylm.core.artifact import Tokens
    from raylm.core.metrics import read_metrics
    from raylm.core.workers import SUBMITTED, Workers
    from raylm.parallel.group import elastic
    from raylm.train.config import Train
    from raylm.train.stage import run
    from tests.rows import counting_rows, make_rows
    from tests.stages import context

    elastic.RESIZE_S = 2.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    os.environ |= {SUBMITTED: "{}", "RAY_ADDRESS": cluster.address}
    workers = Workers()
    make_rows(root, "tokens", Tokens, counting_rows(40), length=16)
    cfg = Train(**KEYS)
    ctx = context(root, "elastic", cfg, workers)
    log, did, worlds = ctx.log, [], []

    def on_row(step: int, **values: Any) -> None:
        log(step, **values)
        worlds.append((step, values["world"]))
        if step == 26 and not did:
            did.append(cluster.remove_node(second, allow_graceful=False))
        if step == 30 and len(did) == 1:
            did.append(cluster.add_node(num_cpus=2))

    ctx.log = on_row
    made = run(cfg, ctx)
    rows = read_metrics(made.folder)
    workers.stop()
    ray.shutdown()
    cluster.shutdown()
    return {"losses": [row["loss"] for row in rows], "steps": [row["step"] for row in rows], "worlds": worlds, **made.metrics}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
