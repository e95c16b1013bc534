"""One job on several hosts, by `raylm cluster start` on each: for tests and for the benchmark of recovery."""

from __future__ import annotations

import json
import random
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

{corpus}
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
model = {{kind = "llama", hidden_size = 32, num_layers = 2, num_heads = 1, intermediate_size = 64, max_length = 64}}
optimizer = {{lr = 3e-3}}
batch = {batch}
micro_batch = 8
steps = {steps}
save_every = {save_every}
workers = {{count = {ranks}, cpus = {cpus}, nodes = {machines}, least = 1}}
"""
CORPUS = """
[stages.corpus]
stage = "prepare"
source = {{kind = "jsonl", glob = "{glob}"}}
steps = [{{kind = "length", min_chars = 5}}]
dedup = [{{kind = "exact"}}, {{kind = "min_hash"}}]
workers = {{count = {workers}}}
"""
POLICY = """
[stages.prompts]
stage = "tokenize"
documents = "questions"
tokenizer = "dialogues"
form = {{kind = "prompts", length = 64}}
held_out = 0.1
workers = {{count = 2}}

[stages.policy]
stage = "rl"
prompts = "prompts"
model = "sft"
algorithm = {{kind = "grpo", num_generations = 4}}
rewards = [{{kind = "answer", among = ["function", "class", "exception", "constant", "module"]}}]
optimizer = {{lr = 1e-3, weight_decay = 0.0, warmup = 0.0, schedule = "constant"}}
iterations = {iterations}
prompts_per_iteration = 6
max_tokens = 12
micro_batch = 8
held_out_prompts = 12
save_every = 2
workers = {{count = {ranks}, cpus = {cpus}, nodes = {machines}{fewest}}}
generator = {{count = {machines}, cpus = {cpus}}}
"""
ENDPOINT = """
[stages.api]
stage = "serve"
model = "{model}"
host = "0.0.0.0"
port = 8000
gateway = {{nodes = "every"}}
replicas = {{min = {machines}, max = {machines}}}
workers = {{cpus = {engine_cpus}}}
"""


class Run:
    """One job on all hosts, by `raylm cluster start` on each.

    Args:
        files: how many of jsonl a first stage `corpus` reads; none, and there is no such stage.
        variables: of the environment of all machines.
        more: further stages, as `POLICY` and `ENDPOINT` are.
        stay: the command leaves an endpoint on the cluster, which is to go on.
        job: what differs in `JOB`.
    """

    def __init__(
        self,
        hosts: Hosts,
        folder: Path,
        files: int = 0,
        variables: dict[str, str] | None = None,
        more: str = "",
        stay: bool = False,
        **job: Any,
    ) -> None:
        self.hosts, self.folder, self._variables, self._stay = hosts, folder, variables or {}, stay
        self.job, self.texts = folder / "job.toml", set[str]()
        corpus = CORPUS.format(glob=self._write(files), workers=2 * hosts.count) if files else ""
        few = {"steps": 20, "save_every": 10, "batch": 16, "iterations": 8}
        usual = {"machines": hosts.count, "ranks": hosts.count, "cpus": 1, "engine_cpus": 2, "fewest": "", "model": "policy"}
        asked = {**few, **usual, "root": folder / "runs", **job}
        self.job.write_text((JOB + more).format(corpus=corpus, **asked))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def _write(self, files: int, rows: int = 1500) -> str:
        """Documents of words drawn by chance, and in every file one that stands in all: `texts` are those that must stay."""
        draw = random.Random(0)
        words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(5000)]
        (self.folder / "raw").mkdir()
        for at in range(files):
            texts = [" ".join(draw.choices(words, k=60)) for _ in range(rows)]
            self.texts.update(texts)
            lines = [json.dumps({"text": text}) + "\n" for text in (*texts, "this one stands in every file of them all")]
            (self.folder / "raw" / f"{at:03d}.jsonl").write_text("".join(lines))
        self.texts.add("this one stands in every file of them all")
        return str(self.folder / "raw" / "*.jsonl")

    def start(self, hosts: Iterable[int] | None = None, runs: list[str] | None = None) -> None:
        """Start the machines' Ray, and on the first of them the job, or the command `runs`."""
        for host in range(self.hosts.count) if hosts is None else hosts:
            command = [sys.executable, "-m", "raylm", "cluster", "start", *(["--stay"] if self._stay else []), "--"]
            command += runs or [sys.executable, "-m", "raylm", "run", str(self.job)]
            self.processes[host] = self.hosts.start(
                host,
                command,
                self.folder / f"log{host}",
                RAYLM_NODE_RANK=str(host),
                RAYLM_NUM_NODES=str(self.hosts.count),
                RAYLM_HEAD_ADDRESS=self.hosts.address(0),
                RAYLM_RAY_TOKEN=TOKEN,
                **self._variables,
            )

    def log(self, host: int = 0) -> str:
        return (self.folder / f"log{host}").read_text(errors="replace")

    def wait(self, timeout_s: float) -> int:
        return self.processes[0].wait(timeout_s)

    def manifest(self, stage: str) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / "hosts" / stage / "manifest.json").read_text())

    def rows(self, stage: str = "sft") -> list[dict[str, Any]]:
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

    def marks(self, stage: str = "corpus") -> set[str]:
        """Units of a prepare stage that are finished."""
        return {path.name for path in (self.folder / "runs" / "hosts" / stage / "_work").glob("*-?????.json")}

    def until_marks(self, count: int, timeout_s: float, stage: str = "corpus") -> float:
        """Seconds until so many are."""
        began = time.monotonic()
        while len(self.marks(stage)) < count:
            assert self.processes[0].poll() is None, self.log(0)
            assert time.monotonic() - began < timeout_s, f"no {count} units: {self.log(0)}"
            time.sleep(0.05)
        return time.monotonic() - began

    def step(self, stage: str = "sft") -> int:
        """The last step that is made."""
        return max((row.get("step", 0) for row in self.rows(stage)), default=0)

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
def running(folder: Path, count: int, disk_mb: int = 0, **job: Any) -> Iterator[Run]:
    with Hosts(count, folder, disk_mb) as hosts:
        run = Run(hosts, folder, **job)
        run.start()
        yield run


def asked(hosts: Hosts, at: int, key: str, client: int = 0) -> dict[str, Any]:
    """What the endpoint at host `at` answers a client on another host, see `asking`."""
    told = hosts.run(client, [sys.executable, "-m", "tests.cluster.asking", f"http://{hosts.address(at)}:8000", key])
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def digests(run: Run, stage: str) -> list[str]:
    """Of all files with rows that a stage has made."""
    return sorted(file["digest"] for file in run.manifest(stage)["files"] if file["rows"])


def left(hosts: Hosts, variables: dict[str, str], uri: str = "s3://runs/hosts") -> dict[str, Any]:
    """What lies under the root of a job in a bucket, see `left_in_bucket`."""
    told = hosts.run(0, [sys.executable, "-m", "tests.cluster.left_in_bucket", uri], 120, **variables)
    line = next((line for line in told.stdout.splitlines() if line.startswith("left ")), None)
    assert line, told.stderr
    return json.loads(line.removeprefix("left "))
