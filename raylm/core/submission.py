"""Checks a job submitted to a cluster: that its artifacts are kept, and that all nodes see them."""

from __future__ import annotations

import os
import sys
import uuid

from raylm.core.config import StageConfig
from raylm.core.errors import ConfigError, PlacementError
from raylm.core.node_report import ANSWER_S, NodeReport, ask_nodes, differing
from raylm.core.room import refusal
from raylm.core.storage import Folder
from raylm.core.workers import SUBMITTED, Workers


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
        PlacementError: the cluster can never hold what one of `stages` asks for at once, or its machines have other packages.
        ConfigError: `folder` lies on the driver's machine alone.
    """
    if not workers.submitted or not stages:
        return
    here = os.getcwd()
    workers.ensure()
    for name, cfg in stages.items():
        if error := refusal(cfg.roles(), name):
            raise error
    reports, silent = look(folder)
    stand_in(here)
    if silent:
        print(f"  {', '.join(silent)} did not say within {ANSWER_S:.0f} s whether {folder.uri} is seen there", file=sys.stderr)
    if other := differing(reports):
        raise PlacementError(
            f"the machines of this cluster have different packages: {'; '.join(other[:5])}",
            next="install one lock (cluster/locks/) on all of them: make install",
        )
    blind = [report.address for report in reports if not report.sees]
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


def look(folder: Folder) -> tuple[list[NodeReport], list[str]]:
    """What other machines say of themselves and of a file that is written here, and the addresses of those that are silent. A
    machine that answered has unpacked the job's files."""
    name = f".seen-{uuid.uuid4().hex}"
    folder.make().write(name, "")
    try:
        return ask_nodes(folder, name)
    finally:
        folder.remove(name)
