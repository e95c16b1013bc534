"""What is refused before a job is sent to a cluster; and one that is sent to a real one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from raylm.cluster.contract import Place, Ports
from raylm.cluster.jobs import Cluster
from raylm.cluster.start import Node, _serve
from raylm.cluster.submit import Asked, check_environment, check_root, entry, read_environment, run_words
from raylm.core.errors import ConfigError, PlacementError
from raylm.job import load

JOB = """
name = "sent"
root = "{root}"
[stages.corpus]
stage = "prepare"
source = {{kind = "jsonl", glob = "{root}/*.jsonl"}}
workers = {{count = {count}}}
"""


def test_a_relative_root_is_refused():
    with pytest.raises(ConfigError, match="is a temporary copy"):
        check_root("runs")
    check_root("/shared/runs")
    check_root("s3://bucket/runs")


def test_keys_that_ray_passes_over_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no key 'env_varz'.*env_vars"):
        check_environment({"env_varz": {}})
    with pytest.raises(ConfigError, match="HF_TOKEN would be shown"):
        check_environment({"env_vars": {"HF_TOKEN": "x", "OMP_NUM_THREADS": "1"}})
    check_environment({"env_vars": {"OMP_NUM_THREADS": "1"}})


def test_options_are_those_of_run_there():
    words = run_words("sft", ["stages.sft.steps=3"], ["sft"])
    assert words == ("--only", "sft", "--set", "stages.sft.steps=3", "--rebuild", "sft")


def test_what_looks_secret_stands_in_no_command_that_others_see(tmp_path):
    (tmp_path / "keys.toml").write_text('[stages.judge.options]\napi_key = "abc"\n')
    for shown in (str(tmp_path / "keys.toml"), "root=https://me:abc@host/x", 'stages.x.headers={Authorization="Bearer abc"}'):
        with pytest.raises(ConfigError, match="would be shown") as told:
            run_words(None, [shown], [])
        assert "abc" not in str(told.value)
    plain = ["stages.sft.batch_tokens=9", "stages.sft.tokenizer=tok", 'stages.sft.source={uri="s3://b/x",key_env="KEY"}']
    plain += ["stages.base.model.experts_per_token=2", "stages.base.model={experts_per_token='x'}"]
    assert len(run_words(None, plain, [])) == 10


def test_a_file_that_is_no_runtime_environment(tmp_path):
    (tmp_path / "env.json").write_text("[1]")
    with pytest.raises(ConfigError, match="is a JSON object"):
        read_environment(str(tmp_path / "env.json"))


def test_what_the_user_leaves_out_is_not_sent(tmp_path):
    (tmp_path / "job.toml").write_text(JOB.format(root="/shared", count=1))
    asked = Asked(load(str(tmp_path / "job.toml"), []), "job.toml", (), tmp_path, {"excludes": ["private/"]}, "python")
    left_out = entry(asked, 1).runtime_env["excludes"]
    assert "private/" in left_out and ".env" in left_out
    there = entry(asked._replace(in_place=True), 1)
    assert there.runtime_env["working_dir"] == f"local://{tmp_path}" and there.entrypoint.endswith("run job.toml")


def test_a_connection_that_breaks_prints_nothing_twice(capsys):
    class Breaks:
        tries = 0

        async def tail_job_logs(self, name):
            self.tries += 1
            yield "one\ntwo\n"
            if self.tries == 1:
                raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
            yield "three\n"

    there: Any = Cluster.__new__(Cluster)
    there._client, there._printed = Breaks(), 0
    with pytest.raises(RuntimeError):
        asyncio.run(there._tail("x"))
    asyncio.run(there._tail("x"))
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_an_endpoint_whose_ray_ends_by_itself_has_failed(tmp_path):
    node = Node(Place(0, 1, "127.0.0.1"), "127.0.0.1", Ports.of(), tmp_path, {})
    with pytest.raises(PlacementError, match="Ray ended, and the endpoint with it"):
        _serve(node, subprocess.Popen(["true"]))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of this machine alone, made by `raylm cluster start`: token, pinned ports. Yields its address and environment."""
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        # the ports of `Ports.of` lie above it
        base = 20000 + probe.getsockname()[1] % 20000
    variables = {**os.environ, "RAYLM_RAY_PORT": str(base), "TMPDIR": "/tmp"}
    log = (folder / "log").open("wb")
    command = [sys.executable, "-m", "raylm", "cluster", "start", "--", "sleep", "600"]
    started = subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    token = f"/tmp/raylm-ray-{os.getuid()}-{base}.auth/token"
    deadline = time.monotonic() + 240
    while "Running entrypoint" not in (folder / "log").read_text():
        assert started.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.5)
    yield f"http://127.0.0.1:{base + 1886}", {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
    started.send_signal(signal.SIGTERM)
    started.wait(60)
    left = subprocess.run(["pgrep", "-f", f"raylm-ray-{os.getuid()}-{base}/"], capture_output=True, text=True, check=False)
    assert left.stdout == "", "Ray's processes are still there"


def raylm(*words: str, variables, folder) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raylm", *words]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def test_a_job_runs_there_is_listed_and_its_status_comes_back(cluster, tmp_path):
    address, variables = cluster
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"row number {n} of a file"}) + "\n" for n in range(50)))
    (tmp_path / "job.toml").write_text(JOB.format(root=tmp_path, count=1))
    sent = raylm("submit", "job.toml", "--address", address, "--python", sys.executable, variables=variables, folder=tmp_path)
    assert sent.returncode == 0, sent.stderr + sent.stdout
    assert re.search(r"submitted as raylm-sent-1", sent.stderr)
    assert "next: raylm show" in sent.stdout
    manifest = json.loads((tmp_path / "sent" / "corpus" / "manifest.json").read_text())
    assert manifest["kind"] == "Documents"
    # the same again finds it made
    again = raylm("submit", "job.toml", "--address", address, "--python", sys.executable, variables=variables, folder=tmp_path)
    assert (again.returncode, "corpus: ready" in again.stdout) == (0, True)
    listed = raylm("jobs", "--address", address, variables=variables, folder=tmp_path)
    assert "raylm-sent-2" in listed.stdout and "SUCCEEDED" in listed.stdout
    # what the cluster can never hold is refused before it is sent
    (tmp_path / "other").mkdir()
    (tmp_path / "job.toml").write_text(JOB.format(root=tmp_path / "other", count=900))
    large = raylm("submit", "job.toml", "--address", address, "--python", sys.executable, variables=variables, folder=tmp_path)
    assert (large.returncode, "the whole cluster has" in large.stderr) == (1, True)


TRAINS = """
name = "trains"
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
workers = {{count = 2}}
"""


@pytest.mark.long
def test_a_training_on_two_ranks_runs_there(cluster, tmp_path):
    address, variables = cluster
    (tmp_path / "job.toml").write_text(TRAINS.format(root=tmp_path))
    sent = raylm("submit", "job.toml", "--address", address, "--python", sys.executable, variables=variables, folder=tmp_path)
    assert sent.returncode == 0, sent.stderr + sent.stdout
    assert json.loads((tmp_path / "trains" / "sft" / "manifest.json").read_text())["facts"]["steps"] == 4


def test_a_live_cluster_is_examined_from_within(cluster, tmp_path):
    address, variables = cluster
    words = ("doctor", "--address", address, "--python", sys.executable, "--root", str(tmp_path))
    told = raylm(*words, variables=variables, folder=tmp_path)
    assert told.returncode == 0, told.stderr + told.stdout
    assert " sees " in told.stdout and "missing" not in told.stdout and "next: raylm submit" in told.stdout


def test_without_the_token_nobody_is_let_in(cluster, tmp_path):
    address, variables = cluster
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    told = raylm("jobs", "--address", address, variables={**variables, "RAY_AUTH_TOKEN_PATH": str(wrong)}, folder=tmp_path)
    assert (told.returncode, "does not take this token" in told.stderr) == (1, True), told.stderr
    nobody = raylm("jobs", "--address", "http://127.0.0.1:9", variables=variables, folder=tmp_path)
    assert (nobody.returncode, "no cluster answers" in nobody.stderr) == (1, True), nobody.stderr


class Answers(Cluster):
    """A cluster that answers what it is told; "" breaks the connection."""

    def __init__(self, *statuses: str) -> None:
        self.address, self._left = "http://head:8265", list(statuses)

    def info(self, name: str) -> Any:
        status = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        if not status:
            raise ConfigError("no cluster answers")
        return SimpleNamespace(status=status, message="", driver_exit_code=0)

    async def _tail(self, name: str) -> None:
        pass


def test_a_connection_that_breaks_while_a_job_waits_is_asked_again(monkeypatch):
    monkeypatch.setattr("raylm.cluster.jobs.AGAIN_S", 0.0)
    assert Answers("PENDING", "", "PENDING", "RUNNING", "", "SUCCEEDED").follow("x") == 0
    monkeypatch.setattr("raylm.cluster.jobs.BROKEN_S", 0.05)
    with pytest.raises(PlacementError, match="has not answered"):
        Answers("PENDING", "").follow("x")
