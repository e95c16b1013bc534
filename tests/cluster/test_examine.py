"""What is said of a cluster's machines."""

from __future__ import annotations

from raylm.cluster.examine import findings
from raylm.core.artifact import versions
from raylm.core.node_report import NodeReport

FINE = NodeReport("10.0.0.3", versions(), True, (-0.1, 0.1), 100.0, 64.0, ["NVIDIA H100"] * 8, "eth0")
HAS = {"10.0.0.3": {"CPU": 32.0, "GPU": 8.0}}


def said(report: NodeReport, silent: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(found.state, found.what) for found in findings([report], list(silent), HAS, "s3://b/runs")]


def test_a_machine_with_which_nothing_is_wrong():
    assert {state for state, _ in said(FINE)} == {"ok"}


def test_each_fault_is_named_with_its_machine():
    assert ("missing", "10.0.0.4 did not answer") in said(FINE, ("10.0.0.4",))
    assert ("missing", "10.0.0.3 does not see s3://b/runs") in said(FINE._replace(sees=False))
    assert ("missing", "10.0.0.3: Ray counts 8 GPUs, the driver lists 7") in said(FINE._replace(gpus=["NVIDIA H100"] * 7))
    assert ("note", "10.0.0.3: its clock is off by 5.0 s or more") in said(FINE._replace(ahead_s=(5.0, 5.2)))
    assert ("note", "10.0.0.3: its clock is off by 5.0 s or more") in said(FINE._replace(ahead_s=(-5.2, -5.0)))
    assert ("note", "10.0.0.3: no interface has this address (NAT?)") in said(FINE._replace(interface=""))
    assert ("note", "10.0.0.3: 32 CPUs, 64 GB, 2 GB free") in said(FINE._replace(disk_gb=2.0))
    other = FINE._replace(versions={**versions(), "torch": "2.0"})
    assert any(state == "missing" and "has torch 2.0" in what for state, what in said(other))
