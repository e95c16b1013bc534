"""Checks a job submitted to a cluster: that its artifacts are kept, and that all nodes see them."""

from __future__ import annotations

import os
import sys
import uuid

from raylm.core.config import StageConfig
from raylm.core.errors import ConfigError
from raylm.core.room import refusal
from raylm.core.storage import Folder
from raylm.core.workers import SUBMITTED, Workers

SEEN_S = 120.0
"""Seconds that a node has to say whether it sees the job's folder; a new one gets the job's packages first."""


def check_root(root: str) -> None:
    """Raises ConfigError for a relative root of a submitted job: what it makes would be removed with Ray's copy of its files."""
    if SUBMITTED in os.environ and "://" not in root and not os.path.isabs(root):
        raise ConfigError(
            f"root = {root!r} is relative; under `ray job submit` that is a temporary copy, {os.getcwd()}",
            where="root",
            next="--set root=/shared/... (a folder that all nodes see) or --set root=s3://...",
        )


def check(workers: Workers, folder: Folder, stages: dict[str, StageConfig]) -> None:
    """Check a submitted job before its work starts; on a cluster of our own there is nothing to check.

    Raises:
        PlacementError: the cluster can never hold what one of `stages` asks for at once.
        ConfigError: `folder` lies on the driver's machine alone.
    """
    if not workers.submitted or not stages:
        return
    here = os.getcwd()
    workers.ensure()
    for name, cfg in stages.items():
        if error := refusal(cfg.roles(), name):
            raise error
    blind, silent = unseen(folder)
    stand_in(here)
    if silent:
        print(f"  {', '.join(silent)} did not say within {SEEN_S:.0f} s whether {folder.uri} is seen there", file=sys.stderr)
    if blind:
        raise ConfigError(
            f"{folder.uri} is on this machine alone: {', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see it",
            where="root",
            next="--set root=/shared/... (a folder that all nodes see) or --set root=s3://...",
        )


def stand_in(path: str) -> None:
    """Enter `path`, the folder that this process was started in, if what it stands in was removed.

    Ray unpacks a job's files once on each node, and before that removes what lies at their place. Two nodes that share a disk
    so take the folder away from a driver that stands in it: the same path then is another folder. A first import of torch in a
    removed one ends the process ("Intel oneMKL FATAL ERROR: Cannot load libtorch_cpu.so").
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir(path)


def unseen(folder: Folder) -> tuple[list[str], list[str]]:
    """Addresses of other nodes with cores or GPUs where a file that is written here is not seen, and of those that did not
    answer. A node that answered has unpacked the job's files."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name, mine = f".seen-{uuid.uuid4().hex}", ray.get_runtime_context().get_node_id()
    folder.make().write(name, "")
    blind, silent = [], []
    try:
        # a process for each answer: an idle one may stand in a folder that another node's unpacking removed
        remote = ray.remote(num_cpus=0, max_calls=1)(_sees)
        probes = [
            (
                node["NodeManagerAddress"],
                remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    folder.uri, name
                ),
            )
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] != mine and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
        ]
        ray.wait([answer for _, answer in probes], num_returns=len(probes), timeout=SEEN_S) if probes else None
        for address, answer in probes:
            try:
                if not ray.get(answer, timeout=0.1):
                    blind.append(address)
            except RayError:
                silent.append(address)
    finally:
        folder.remove(name)
    return blind, silent


def _sees(uri: str, name: str) -> bool:
    return Folder(uri).exists(name)
