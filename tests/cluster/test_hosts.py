"""raylm on several hosts: made of network namespaces, each with its own address, mounts and processes (see `hosts`)."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raylm.cluster.contract import Ports
from tests.cluster import losses
from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import TOKEN, Run, left, running

pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(cannot()), reason=cannot() or "-")]


def test_a_job_runs_on_two_hosts_and_nobody_without_the_token_is_heard(tmp_path):
    with running(tmp_path, 2) as run:
        run.until("Running entrypoint", 240)
        doors = closed_doors(run.hosts)
        named = [path for path in Path("/proc").glob("[0-9]*/cmdline") if TOKEN.encode() in read(path)]
        assert named == [], "the token stands in the process list"
        assert run.wait(300) == 0, run.log()
    made = run.manifest("sft")
    assert (made["kind"], made["facts"]["steps"], made["metrics"]["restarts"]) == ("Checkpoint", 20, 0)
    # a rank on each machine: `nodes = 2` is refused where that cannot be
    assert made["config"]["workers"] == {**made["config"]["workers"], "count": 2, "nodes": 2}
    # metrics have no token in Ray 2.60: the README says what must be in front of them
    assert doors.pop("metrics") in (200, 401)
    assert doors == {
        "job api": 401,
        "nodes": 401,
        "logs": 401,
        "gcs": "refused",
        "raylet": "refused",
        "object store": "refused",
        "serve": "closed",
        "driver": "refused",
        "client": "refused",
    }
    secret = [
        path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "token" and TOKEN.encode() in read(path)
    ]
    assert secret == [], "the token stands in these files"


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def closed_doors(hosts: Hosts) -> dict[str, Any]:
    """What a host without the token gets of the head: tried from the second one, whose Ray is not asked."""
    head, ports = hosts.address(0), Ports.of()
    code = f"""
import json, os, socket, urllib.error, urllib.request
def status(path, data=None, port={ports.dashboard}):
    try:
        asked = urllib.request.Request(f"http://{head}:{{port}}" + path, data=data)
        return urllib.request.urlopen(asked, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
found = {{"job api": status("/api/jobs/", json.dumps({{"entrypoint": "true"}}).encode()), "nodes": status("/api/v0/nodes")}}
found["logs"] = status("/api/v0/logs/file?filename=raylet.out&node_ip={head}")
found["metrics"] = status("/metrics", port={ports.metrics})
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
import grpc
def called(method, port):
    # an empty message is a valid one of all of these
    channel = grpc.insecure_channel(f"{head}:{{port}}")
    try:
        channel.unary_unary(method)(b"", timeout=10, metadata=[("authorization", "Bearer " + "0" * 64)])
        return "open"
    except grpc.RpcError as error:
        return "refused" if error.code() == grpc.StatusCode.UNAUTHENTICATED else str(error.code())
found["gcs"] = called("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", {ports.gcs})
found["raylet"] = called("/ray.rpc.NodeManagerService/GetNodeStats", {ports.node_manager})
found["object store"] = called("/ray.rpc.ObjectManagerService/Pull", {ports.object_manager})
import ray
try:
    ray.init(address="{head}:{ports.gcs}", log_to_driver=False, logging_level="ERROR")
    found["driver"] = "open"
except Exception as error:
    found["driver"] = "refused"
try:
    ray.init(address="ray://{head}:{ports.client}", logging_level="ERROR")
    found["client"] = "open"
except Exception as error:
    found["client"] = "refused"
with socket.socket() as door:
    door.settimeout(3)
    found["serve"] = "open" if door.connect_ex(("{head}", 8000)) == 0 else "closed"
print("found", json.dumps(found))
"""
    told = hosts.run(1, [sys.executable, "-c", code])
    line = next((line for line in told.stdout.splitlines() if line.startswith("found ")), None)
    assert line, told.stderr
    return json.loads(line.removeprefix("found "))


STEPS, SAVE_EVERY = losses.STEPS, losses.SAVE_EVERY


@pytest.mark.long
@pytest.mark.parametrize("loss", ["host_kill", "cable_pull", "drain", "disk_full"])
def test_a_machine_that_is_lost_in_training_costs_a_save_interval_at_most(loss, tmp_path):
    disk_mb = 2000 if loss == "disk_full" else 0
    with running(tmp_path, 2, disk_mb, steps=STEPS, save_every=SAVE_EVERY, batch=48) as run:
        found = losses.in_train(run, loss)
        assert run.wait(losses.LIMIT_S) == 0, run.log()
    metrics = run.manifest("sft")["metrics"]
    # no step twice, none missing, by one writer
    assert losses.whole_training(run, STEPS)
    assert metrics["lost_steps"] <= SAVE_EVERY and metrics["restarts"] <= (0 if loss == "disk_full" else 2), metrics
    if loss in ("host_kill", "cable_pull"):
        assert metrics["restarts"] >= 1 and "is lost" in run.log(), found


@pytest.mark.long
@pytest.mark.parametrize("loss", ["host_kill", "cable_pull", "drain"])
def test_a_machine_that_is_lost_while_documents_are_read_comes_back_and_no_document_is_lost_or_doubled(loss, tmp_path):
    with running(tmp_path, 2, files=24) as run:
        found = losses.in_prepare(run, loss)
        losses.mend(run, loss)
        assert run.wait(losses.LIMIT_S) == 0, run.log()
    assert losses.whole_corpus(run) and losses.whole_training(run, 20)
    # what the machine had under way, and no more
    assert found["redone_units"] <= 4


@pytest.mark.long
def test_a_lost_head_is_a_new_submission_that_goes_on(tmp_path):
    with running(tmp_path, 2, steps=STEPS, save_every=SAVE_EVERY, batch=48) as run:
        run.until_step(50, losses.LIMIT_S)
        run.hosts.kill(0)
        run.hosts.kill(1)
        done = run.step()
        for host in (0, 1):
            run.hosts.boot(host)
        run.start()
        assert run.wait(losses.LIMIT_S) == 0, run.log()
        assert "questions: ready" in run.log() and "dialogues: ready" in run.log()
    assert losses.whole_training(run, STEPS)
    assert run.manifest("sft")["metrics"]["lost_steps"] <= min(done, SAVE_EVERY)


KEEPS = """
import os, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address="auto", log_to_driver=False)
class Held:
    count = 0
    def add(self):
        self.count += 1
        return self.count, os.getpid(), ray.util.get_node_ip_address()
try:
    held = ray.get_actor("held", "test")
except ValueError:
    here = ray.get_runtime_context().get_node_id()
    (other,) = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    there = NodeAffinitySchedulingStrategy(other, soft=False)
    options = dict(name="held", namespace="test", lifetime="detached", num_cpus=0, scheduling_strategy=there)
    held = ray.remote(Held).options(**options).remote()
print("held", *ray.get(held.add.remote(), timeout=60), flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_a_head_that_keeps_its_state_comes_back_with_its_actors(tmp_path):
    (tmp_path / "gcs").mkdir()
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}
    with Hosts(2, tmp_path) as hosts:
        run = Run(hosts, tmp_path, variables=kept)
        command = [sys.executable, "-c", KEEPS]
        run.start(runs=command)
        run.until("held 1 ", 240)
        hosts.kill(0)
        hosts.boot(0)
        run.start([0], command)
        run.until("held 2 ", 240)
        told = [line.split()[1:] for line in run.log().splitlines() if line.startswith("held ")]
    # the same process on the other host, which counts on
    assert told[0][0] == "1" and told[1][0] == "2" and told[0][1:] == told[1][1:] and told[0][2] == hosts.address(1)


def progress(run: Run, beyond: int) -> int:
    """The step that the head's output names last, once it is beyond this one; a bucket has rows at checkpoints alone."""
    deadline = time.monotonic() + losses.LIMIT_S
    while (step := max(map(int, re.findall(r"sft: (\d+)/", run.log())), default=0)) <= beyond:
        assert run.processes[0].poll() is None and time.monotonic() < deadline, run.log()
        time.sleep(0.2)
    return step


@pytest.mark.long
def test_three_hosts_with_their_root_in_a_bucket_bear_a_full_disk_and_a_lost_machine(tmp_path):
    with Hosts(3, tmp_path, disk_mb=1500) as hosts, hosts.bucket("runs") as variables:
        run = Run(hosts, tmp_path, variables=variables, root="s3://runs", steps=STEPS, save_every=SAVE_EVERY, batch=48)
        run.start()
        step = progress(run, 0)
        losses.fill(run)
        step = progress(run, step)
        hosts.kill(2)
        losses.said(run, 0, time.monotonic())
        assert run.wait(losses.LIMIT_S) == 0, run.log()
        found = left(hosts, variables)
    assert found["locks"] == [] and found["steps"] == list(range(STEPS))
    metrics = found["stages"]["sft"]["metrics"]
    assert metrics["lost_steps"] <= SAVE_EVERY and metrics["restarts"] >= 1
