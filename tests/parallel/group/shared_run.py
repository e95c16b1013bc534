"""Two jobs of three cores each on one cluster of two nodes and four cores; their results, in a folder.

Run as `python -m tests.parallel.group.shared_run main FOLDER`; it starts the cluster, and itself twice as a submitted job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any


def where(ranks: Any) -> dict[str, Any]:
    """Runs on the ranks: the sum of all, so that they have talked to each other, and where they are."""
    import ray
    import torch
    import torch.distributed as dist

    total = torch.ones(1)
    dist.all_reduce(total)
    place = ray.get_runtime_context().get_placement_group_id()
    return {"sum": total.item(), "place": place, "interface": os.environ["GLOO_SOCKET_IFNAME"], "pid": os.getpid()}


def holds() -> None:
    """Reserve what an rl stage does, say so, and give it back when a line comes in."""
    from raylm.core.config import Role
    from raylm.core.workers import Workers

    workers = Workers()
    workers.reserve({"ranks": Role(count=2), "generator": Role()}, "first")
    print("held", flush=True)
    sys.stdin.readline()
    workers.stop()


def runs(root: str) -> None:
    """What an rl stage does with its cluster, without its work: ranks and a generator, together or not at all."""
    import ray

    from raylm.core import room, submission
    from raylm.core.config import Role, WorkerSpec
    from raylm.core.errors import ConfigError
    from raylm.core.room import phases
    from raylm.core.storage import Folder
    from raylm.core.workers import Workers
    from raylm.parallel.group.driver import hold_ranks
    from raylm.rl.config import RL

    room.SAY_S = 1.0
    workers, spec = Workers(), WorkerSpec(count=2)
    cfg = RL(stage="rl", prompts="prompts", model="base", rewards=[{"kind": "answer"}], iterations=1, workers=spec)
    submission.check(workers, Folder(root), {"policy": cfg})
    # a name that means another folder in each process, as /tmp is another one on each machine
    os.dup2(os.open(root, os.O_RDONLY), 900)
    refused = ""
    try:
        submission.check(workers, Folder("/proc/self/fd/900"), {"policy": cfg})
    except ConfigError as cause:
        refused = str(cause)
    (together,) = phases(cfg.roles())
    # the ranks' places are not the first ones
    reserved = workers.reserve({name: together[name] for name in ("generator", "ranks")}, "second")
    assert reserved is not None
    free = ray.available_resources().get("CPU", 0.0)
    group = hold_ranks(workers, spec)
    before = group.call(where)
    os.kill(before["pid"], signal.SIGKILL)  # the new group begins in the places of the old one
    after = group.call(where)
    generator: Any = ray.remote(where_alone)
    place = workers.place("generator", Role(), "second")
    assert ray.get(generator.options(num_cpus=1, scheduling_strategy=place).remote(), timeout=30) == reserved.group.id.hex()
    workers.release("ranks:")
    until = time.monotonic() + 20
    while (state := ray.util.placement_group_table(reserved.group)["state"]) != "REMOVED" and time.monotonic() < until:
        time.sleep(0.1)
    workers.stop()
    held = reserved.group.id.hex()
    print(json.dumps({"free": free, "held": held, "before": before, "after": after, "state": state, "refused": refused}))


def where_alone() -> str:
    """Runs beside the ranks."""
    import ray

    return ray.get_runtime_context().get_placement_group_id() or ""


def main(root: str) -> None:
    """Two jobs at once; prints what the second one printed."""
    from ray.cluster_utils import Cluster

    from raylm.core.workers import SUBMITTED

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    environment = os.environ | {SUBMITTED: "{}", "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "tests.parallel.group.shared_run"]
    pipe = subprocess.PIPE
    first = subprocess.Popen([*command, "holds"], env=environment, stdin=pipe, stdout=pipe, text=True)
    assert first.stdin and first.stdout and first.stdout.readline() == "held\n"
    second = subprocess.Popen([*command, "runs", root], env=environment, stdout=pipe, stderr=pipe, text=True)
    assert second.stdout and second.stderr
    said = ""
    for line in second.stderr:
        said += line
        if "second waits for" in line and first.poll() is None:
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.wait(60) == 0
    assert second.wait(300) == 0, said
    print(json.dumps(json.loads(second.stdout.read().splitlines()[-1]) | {"said": said}))
    cluster.shutdown()


if __name__ == "__main__":
    {"holds": holds, "runs": runs, "main": main}[sys.argv[1]](*sys.argv[2:])
