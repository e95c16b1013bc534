"""raylm on several hosts: made of network namespaces, each with its own address, mounts and processes (see `hosts`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raylm.cluster.contract import Ports
from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import TOKEN, running

pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(cannot()), reason=cannot() or "-")]


def test_a_job_runs_on_two_hosts_and_nobody_without_the_token_is_heard(tmp_path):
    with running(tmp_path, 2) as run:
        run.until("Running entrypoint", 240)
        doors = closed_doors(run.hosts)
        assert run.wait(300) == 0, run.log()
    made = run.manifest("sft")
    assert (made["kind"], made["facts"]["steps"], made["metrics"]["restarts"]) == ("Checkpoint", 20, 0)
    # a rank on each machine: `nodes = 2` is refused where that cannot be
    assert made["config"]["workers"] == {**made["config"]["workers"], "count": 2, "nodes": 2}
    assert doors == {"job api": 401, "nodes": 401, "gcs": "refused", "serve": "closed"}
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
def status(path, data=None):
    try:
        asked = urllib.request.Request("http://{head}:{ports.dashboard}" + path, data=data)
        return urllib.request.urlopen(asked, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
found = {{"job api": status("/api/jobs/", json.dumps({{"entrypoint": "true"}}).encode()), "nodes": status("/api/v0/nodes")}}
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
import ray
try:
    ray.init(address="{head}:{ports.gcs}", log_to_driver=False, logging_level="ERROR")
    found["gcs"] = "open"
except Exception as error:
    found["gcs"] = "refused"
with socket.socket() as door:
    door.settimeout(3)
    found["serve"] = "open" if door.connect_ex(("{head}", 8000)) == 0 else "closed"
print("found", json.dumps(found))
"""
    told = hosts.run(1, [sys.executable, "-c", code])
    line = next((line for line in told.stdout.splitlines() if line.startswith("found ")), None)
    assert line, told.stderr
    return json.loads(line.removeprefix("found "))


@pytest.mark.long
def test_a_machine_that_is_lost_while_it_trains_costs_a_save_interval_at_most(tmp_path):
    with running(tmp_path, 2, steps=400, save_every=20) as run:
        run.until_step(50, 300)
        run.hosts.kill(1)
        assert run.wait(400) == 0, run.log()
    made = run.manifest("sft")
    assert (made["facts"]["steps"], made["metrics"]["restarts"]) == (400, 1)
    assert made["metrics"]["lost_steps"] <= 20
    assert [row["step"] for row in run.rows("sft") if "loss" in row] == list(range(400))


@pytest.mark.long
def test_a_pulled_cable_that_is_put_back_leaves_one_writer(tmp_path):
    with running(tmp_path, 2, steps=400, save_every=20) as run:
        run.until_step(50, 300)
        run.hosts.cable(1, plugged=False)
        run.until_step(120, 300)
        run.hosts.cable(1, plugged=True)
        assert run.wait(400) == 0, run.log()
    made = run.manifest("sft")
    assert (made["facts"]["steps"], made["metrics"]["restarts"]) == (400, 1)
    assert [row["step"] for row in run.rows("sft") if "loss" in row] == list(range(400))


@pytest.mark.long
def test_a_lost_head_is_a_new_submission_that_goes_on(tmp_path):
    with running(tmp_path, 2, steps=400, save_every=20) as run:
        run.until_step(50, 300)
        run.hosts.kill(0)
        run.hosts.kill(1)
        done = max(row["step"] for row in run.rows("sft"))
        for host in (0, 1):
            run.hosts.boot(host)
        run.start()
        assert run.wait(400) == 0, run.log()
        assert "questions: ready" in run.log() and "dialogues: ready" in run.log()
    rows = [row["step"] for row in run.rows("sft") if "loss" in row]
    assert rows == list(range(400))
    assert done - 20 <= run.manifest("sft")["facts"].get("resumed_from", done) <= done
