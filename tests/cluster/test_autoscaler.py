"""A job that needs a machine which is not there yet, on a cluster with Ray's autoscaler: it says so, and goes on when it comes.

Its provider is the one that Ray brings for tests, whose machines are raylets beside the head.
"""

from __future__ import annotations

import json
import sys
import time

import pytest

from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import TOKEN

WHY = cannot()
pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.skipif(bool(WHY), reason=WHY or "-")]
JOB = """
name = "comes"
root = "{root}"
[stages.questions]
stage = "prepare"
source = {{kind = "python_questions", num_rows = 40}}
workers = {{count = 1}}
[stages.dialogues]
stage = "tokenize"
documents = "questions"
tokenizer = {{kind = "bpe", vocab_size = 512}}
form = {{kind = "dialogues", length = 64}}
workers = {{count = 1}}
[stages.sft]
stage = "train"
rows = "dialogues"
model = {{kind = "llama", hidden_size = 32, num_layers = 1, num_heads = 2, intermediate_size = 64, max_length = 64}}
batch = 8
micro_batch = 4
steps = 4
workers = {{count = 2, cpus = 2}}
"""
HEAD_CPUS, COMES_CPUS = 1, 4
LIMIT_S = 300.0


def autoscaler(head: str) -> dict[str, object]:
    """For `ray start --autoscaling-config`: one machine of four cores may come."""
    types = {
        "ray.head.default": {"resources": {"CPU": HEAD_CPUS}, "node_config": {}, "max_workers": 0},
        "large": {"resources": {"CPU": COMES_CPUS}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    commands = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "comes",
        "max_workers": 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "docker": {},
        "auth": {},
        "provider": {"type": "fake_multinode", "gcs_address": f"{head}:6379"},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in (*lists, *commands)},
    }


def test_a_job_says_that_it_waits_for_the_autoscaler_and_goes_on_when_the_machine_is_there(tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "job.toml").write_text(JOB.format(root=tmp_path / "runs"))
    with Hosts(1, tmp_path) as hosts:
        head = hosts.address(0)
        (tmp_path / "autoscaler.json").write_text(json.dumps(autoscaler(head)))
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0"}
        variables |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONFAULTHANDLER": "1"}
        words = ["start", "--head", "--block", f"--node-ip-address={head}", "--port=6379", f"--num-cpus={HEAD_CPUS}"]
        words += [f"--dashboard-host={head}", f"--autoscaling-config={tmp_path / 'autoscaler.json'}"]
        ray = hosts.start(0, [sys.executable, "-m", "ray.scripts.scripts", *words], tmp_path / "ray.log", **variables)
        asks = ["from raylm.cluster.watch import machines_at", f"found = machines_at('http://{head}:8265', '{TOKEN}')"]
        asks.append("print('machines', len([each for each in found or [] if each.is_alive]))")
        machines = [sys.executable, "-c", "\n".join(asks)]
        deadline = time.monotonic() + LIMIT_S
        while "machines 1" not in hosts.run(0, machines).stdout:
            assert ray.poll() is None and time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
            time.sleep(1)
        submit = [
            sys.executable,
            "-m",
            "raylm",
            "submit",
            str(tmp_path / "sent" / "job.toml"),
            "--address",
            f"http://{head}:8265",
        ]
        # both raylets share the head's folder, where the second one's agent would unpack what is sent over the driver's own copy
        submit += ["--folder", str(tmp_path / "sent"), "--in-place", "--python", sys.executable]
        refused = hosts.run(0, submit, LIMIT_S, **variables)
        assert refused.returncode != 0 and "4 CPU" in refused.stderr, refused.stderr
        done = hosts.run(0, [*submit, "--may-come", f"1 x {COMES_CPUS} CPU"], 2 * LIMIT_S, **variables)
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        assert told.count("4 CPU at once (2 ranks), the whole cluster has 1: waits for its autoscaler") == 1, told
        assert "has joined: 2 now" in told, told
        assert "machines 2" in hosts.run(0, machines).stdout
    assert json.loads((tmp_path / "runs" / "comes" / "sft" / "manifest.json").read_text())["facts"]["steps"] == 4
