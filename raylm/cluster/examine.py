"""`raylm doctor --address`: a live cluster, machine by machine. It looks from within, so that it meets what jobs meet.

here:  raylm doctor --address URL -> submits `python -m raylm.cluster.examine` -> follows it
there: every machine reports (raylm.core.node_report) -> findings -> exit status
"""

from __future__ import annotations

import logging
import shlex
import sys
import uuid
from typing import Any

from raylm.cluster.jobs import Cluster, Entry
from raylm.core.node_report import NodeReport, ask_nodes, differing
from raylm.core.storage import Folder
from raylm.doctor import Finding, show

CLOCK_S = 1.0
DISK_GB = 10.0


def examine(cluster: Cluster, python: str, root: str | None) -> int:
    """Look at the cluster from here and from within; 0 where jobs can run.

    Args:
        python: interpreter on the cluster's machines that has raylm.
        root: where jobs would leave their artifacts: every machine must see what another writes there.
    """
    import ray

    there = cluster.version()
    print(f"Ray {there} at {cluster.address}, here {ray.__version__}", flush=True)
    words = [*shlex.split(python), "-m", __name__, *([root] if root else [])]
    name = cluster.submit(Entry(f"raylm-doctor-{uuid.uuid4().hex[:6]}", shlex.join(words), {}, {"raylm_job": "doctor"}))
    status = cluster.follow(name)
    print(
        f"next: raylm submit JOB --address {cluster.address}" if status == 0 else "mend what is missing, then: raylm doctor again"
    )
    return status or (1 if there != ray.__version__ else 0)


def findings(reports: list[NodeReport], silent: list[str], resources: dict[str, dict[str, float]], root: str) -> list[Finding]:
    """What there is to say of each machine.

    Args:
        resources: what Ray was told that each machine has, by its address.
        root: the folder whose file the machines were asked about; "" where there is none.
    """
    found = [Finding("missing", f"{address} did not answer", "see its raylet's log, or end it") for address in silent]
    found += [
        Finding("missing", line, "install one lock (cluster/locks/) on all machines: make install") for line in differing(reports)
    ]
    for report in reports:
        found += _of(report, resources.get(report.address, {}), root)
    return found


def _of(report: NodeReport, has: dict[str, float], root: str) -> list[Finding]:
    told = f"{report.address}: {has.get('CPU', 0):g} CPUs, {report.memory_gb:g} GB, {report.disk_gb:g} GB free"
    found = [Finding("ok" if report.disk_gb >= DISK_GB else "note", told, "" if report.disk_gb >= DISK_GB else "free some space")]
    gpus = has.get("GPU", 0.0)
    if gpus != len(report.gpus):
        what = f"{report.address}: Ray counts {gpus:g} GPUs, the driver lists {len(report.gpus)}"
        found.append(
            Finding("missing" if gpus > len(report.gpus) else "note", what, "start Ray there with --num-gpus, or mend the driver")
        )
    elif gpus:
        found.append(Finding("ok", f"{report.address}: {', '.join(report.gpus)}"))
    least, most = report.ahead_s
    if least > CLOCK_S or most < -CLOCK_S:
        by = least if least > 0 else -most
        found.append(Finding("note", f"{report.address}: its clock is off by {by:.1f} s or more", "run an NTP client there"))
    if not report.interface:
        found.append(
            Finding(
                "note", f"{report.address}: no interface has this address (NAT?)", "set GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME"
            )
        )
    if root:
        state = Finding("ok", f"{report.address} sees {root}") if report.sees else None
        found.append(
            state or Finding("missing", f"{report.address} does not see {root}", "a bucket, or a folder that all machines mount")
        )
    return found


def main(arguments: list[str]) -> int:
    """Within the cluster: ask all machines and print what they say."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    root, name = (arguments or [""])[0], f".seen-{uuid.uuid4().hex}"
    folder: Any = Folder(root).make() if root else None
    if folder:
        folder.write(name, "")
    try:
        reports, silent = ask_nodes(folder, name, here_too=True)
    finally:
        if folder:
            folder.remove(name)
    resources = {node["NodeManagerAddress"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    found = findings(reports, silent, resources, root)
    show(found)
    return 1 if any(finding.state == "missing" for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
