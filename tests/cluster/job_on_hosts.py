"""One job on several hosts, by `raylm cluster start` on each: for tests and for the benchmark of recovery."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Hosts

TOKEN = "7" * 64
JOB = """
name = "hosts"
root = "{root}"

[stages.questions]
stage = "prepare"
source = {{kind = "python_questions", num_rows = 400}}
workers = {{count = 2}}

[stages.dialogues]
stage = "tokenize"
documents = "questions"
tokenizer = {{kind = "bpe", vocab_size = 512}}
form = {{kind = "dialogues", length = 64}}
held_out = 0.1
workers = {{count = 2}}

[stages.sft]
stage = "train"
rows = "dialogues"
model = {{kind = "llama", hidden_size = 32, num_layers = 2, num_heads = 2, intermediate_size = 64, max_length = 64}}
optimizer = {{lr = 3e-3}}
batch = 16
micro_batch = 8
steps = {steps}
save_every = {save_every}
workers = {{count = {hosts}, nodes = {hosts}, least = 1}}
"""


class Run:
    """One job on all hosts, by `raylm cluster start` on each."""

    def __init__(self, hosts: Hosts, folder: Path, **job: Any) -> None:
        self.hosts, self.folder = hosts, folder
        self.job = folder / "job.toml"
        self.job.write_text(JOB.format(root=folder / "runs", hosts=hosts.count, **{"steps": 20, "save_every": 10, **job}))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, hosts: Iterable[int] | None = None) -> None:
        """Start the machines' Ray, and on the first of them the job."""
        for host in range(self.hosts.count) if hosts is None else hosts:
            command = [sys.executable, "-m", "raylm", "cluster", "start", "--"]
            command += [sys.executable, "-m", "raylm", "run", str(self.job)]
            self.processes[host] = self.hosts.start(
                host,
                command,
                self.folder / f"log{host}",
                RAYLM_NODE_RANK=str(host),
                RAYLM_NUM_NODES=str(self.hosts.count),
                RAYLM_HEAD_ADDRESS=self.hosts.address(0),
                RAYLM_RAY_TOKEN=TOKEN,
            )

    def log(self, host: int = 0) -> str:
        return (self.folder / f"log{host}").read_text(errors="replace")

    def wait(self, timeout_s: float) -> int:
        return self.processes[0].wait(timeout_s)

    def manifest(self, stage: str) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / "hosts" / stage / "manifest.json").read_text())

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """Rows of a stage's metrics, as far as they are written."""
        path = self.folder / "runs" / "hosts" / stage / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def until_step(self, step: int, timeout_s: float, stage: str = "sft") -> float:
        """Seconds until the training has made this step."""
        began = time.monotonic()
        while max((row.get("step", 0) for row in self.rows(stage)), default=0) < step:
            assert self.processes[0].poll() is None, self.log(0)
            assert time.monotonic() - began < timeout_s, f"no step {step}: {self.log(0)}"
            time.sleep(0.1)
        return time.monotonic() - began

    def until(self, words: str, timeout_s: float, host: int = 0) -> float:
        """Seconds until a host's log has these words."""
        began = time.monotonic()
        while words not in self.log(host):
            assert self.processes[0].poll() is None or words in self.log(host), self.log(0)
            assert time.monotonic() - began < timeout_s, f"no {words!r} in {self.log(host)}"
            time.sleep(0.2)
        return time.monotonic() - began


@contextmanager
def running(folder: Path, count: int, **job: Any) -> Iterator[Run]:
    with Hosts(count, folder) as hosts:
        run = Run(hosts, folder, **job)
        run.start()
        yield run
