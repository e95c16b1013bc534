"""What each machine of a cluster is and has: asked of all at once, by a small task on each."""

from __future__ import annotations

import time
from typing import NamedTuple

from raylm.core.artifact import versions
from raylm.core.storage import Folder

ANSWER_S = 120.0
"""Seconds that a machine has to answer; a new one gets the job's packages first."""


class NodeReport(NamedTuple):
    """One machine, as it answers for itself."""

    address: str
    versions: dict[str, str]
    """Of the packages that results depend on."""
    sees: bool
    """It sees the file that was written on this machine."""
    ahead_s: tuple[float, float]
    """By how much its clock is ahead, at least and at most: an answer takes a time."""
    disk_gb: float
    """Free on the disk that holds Ray's session: the files of the job, and what is spilled."""
    memory_gb: float
    gpus: list[str]
    interface: str
    """Network interface that carries its address; "" where none has it."""


def ask_nodes(folder: Folder | None = None, name: str = "", here_too: bool = False) -> tuple[list[NodeReport], list[str]]:
    """Reports of the machines with cores or GPUs, and the addresses of those that have not answered within `ANSWER_S`.

    Args:
        folder, name: a file that all of them should see.
        here_too: ask the machine of this process, too.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mine = ray.get_runtime_context().get_node_id()
    # a process for each answer: an idle one may stand in a folder that another node's unpacking removed
    remote = ray.remote(num_cpus=0, max_calls=1)(_report)
    asked = [
        (
            node["NodeManagerAddress"],
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                folder.uri if folder else "", name, time.time()
            ),
        )
        for node in ray.nodes()
        if node["Alive"]
        and (here_too or node["NodeID"] != mine)
        and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    ]
    ray.wait([answer for _, answer in asked], num_returns=len(asked), timeout=ANSWER_S) if asked else None
    reports, silent = [], []
    for address, answer in asked:
        try:
            report, its_time = ray.get(answer, timeout=0.1)
        except RayError:
            silent.append(address)
        else:
            # it looked at its clock after it was asked and before now
            reports.append(report._replace(address=address, ahead_s=(its_time - time.time(), report.ahead_s[1])))
    return reports, silent


def _report(uri: str, name: str, asked_at: float) -> tuple[NodeReport, float]:
    now = time.time()
    import shutil

    import psutil
    import ray.util

    address = ray.util.get_node_ip_address()
    report = NodeReport(
        address=address,
        versions=versions(),
        sees=not uri or Folder(uri).exists(name),
        ahead_s=(0.0, now - asked_at),
        disk_gb=round(shutil.disk_usage(ray.get_runtime_context().get_temp_dir()).free / 1e9, 1),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=_gpus(),
        interface=_interface(address),
    )
    return report, now


def _gpus() -> list[str]:
    """Names of the GPUs that the driver lists, whatever Ray was told of them."""
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()] if told.returncode == 0 else []


def _interface(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == address for one in addresses):
            return name
    return ""


def differing(reports: list[NodeReport]) -> list[str]:
    """`10.0.0.3 has torch 2.12.0, this machine 2.13.0`: for each package and machine that differs from this one."""
    here = versions()
    return [
        f"{report.address} has {package} {report.versions.get(package, 'not installed')}, this machine {wanted}"
        for report in reports
        for package, wanted in here.items()
        if report.versions.get(package) != wanted
    ]
