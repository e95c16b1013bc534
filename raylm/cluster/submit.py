"""`raylm submit`: checks a job against a live cluster, sends it there, and follows it.

job file -> plan (here) -> preflight (there: room, versions; here: root, upload, environment) -> ray job submit -> its output
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raylm.cluster.jobs import DONE, Cluster, Entry
from raylm.cluster.upload import Upload, upload
from raylm.cluster.watch import MachineWatch
from raylm.core import toml
from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError, PlacementError
from raylm.core.room import Node, brought, refusal
from raylm.core.secret_words import looks_secret
from raylm.job import Job, Step

SECRET = re.compile(r"(key|token|secret|passw(or)?d|credential)", re.IGNORECASE)
RUNTIME_ENV = frozenset(
    {
        *("working_dir", "py_modules", "excludes", "pip", "uv", "conda", "env_vars", "config", "container", "image_uri"),
        *("py_executable", "worker_process_setup_hook", "nsight"),
    }
)
"""Keys of Ray's runtime environments. Ray takes any other without a word."""


class Asked(NamedTuple):
    """A job as it is to be run on the cluster."""

    job: Job
    path: str
    words: tuple[str, ...]
    """Options of `raylm run`."""
    folder: Path
    """What is sent."""
    runtime_env: dict[str, Any]
    python: str
    """Interpreter on the cluster's machines that has raylm."""
    in_place: bool = False
    """Whether the folder lies at the same path on every machine: then nothing is sent."""


def entry(asked: Asked, number: int) -> Entry:
    """The submission, under a name that says whose it is: `raylm-grpo-1`."""
    command = shlex.join([*shlex.split(asked.python), "-m", "raylm", "run", asked.path, *asked.words])
    if asked.in_place:
        runtime_env = {**asked.runtime_env, "working_dir": f"local://{asked.folder}"}
    else:
        excludes = [*asked.runtime_env.get("excludes", []), *upload(asked.folder).excludes]
        runtime_env = {**asked.runtime_env, "working_dir": str(asked.folder), "excludes": excludes}
    return Entry(f"raylm-{asked.job.name}-{number}", command, runtime_env, {"raylm_job": asked.job.name, "root": asked.job.root})


def preflight(asked: Asked, steps: list[Step], cluster: Cluster) -> list[str]:
    """What there is to say before the job is sent.

    Raises:
        ConfigError: something in the job, its folder or its environment would go wrong there.
        PlacementError: the cluster can never hold it.
    """
    check_root(asked.job.root)
    check_environment(asked.runtime_env)
    told = _versions(cluster)
    there = machines(cluster)
    for step in steps:
        if step.state != "ready" and (error := refusal(step.config.roles(), step.name, brought(there))):
            raise error
    sent = [f"{asked.folder} of every machine"] if asked.in_place else _said_of(upload(asked.folder))
    if not (asked.folder / asked.path).is_file():
        raise ConfigError(
            "the job file is not in the folder it is to run in", where=asked.path, next=f"cd there; it is {asked.folder}"
        )
    return [*told, f"{len(there)} machines, {_total(there)}", *sent]


def check_root(root: str) -> None:
    """Raises ConfigError for a root that would vanish with the job's copy of the files."""
    if "://" not in root and not os.path.isabs(root):
        raise ConfigError(
            f"root = {root!r} is relative: on the cluster that is a temporary copy",
            where="root",
            next="--set root=/shared/... (a folder that all machines see) or --set root=s3://...",
        )


def check_environment(runtime_env: dict[str, Any]) -> None:
    """Raises ConfigError for keys that Ray would pass over, and for secrets: its job API shows variables to whom it lets in."""
    for key in runtime_env:
        if key not in RUNTIME_ENV:
            raise ConfigError(f"a runtime environment has no key {key!r}.{did_you_mean(key, RUNTIME_ENV)}", where="--runtime-env")
    if "working_dir" in runtime_env:
        raise ConfigError("the folder that is sent is --folder", where="--runtime-env: working_dir")
    variables = runtime_env.get("env_vars", {})
    if shown := [name for name in variables if SECRET.search(name)]:
        raise ConfigError(
            f"{', '.join(shown)} would be shown by Ray's job API in clear text",
            where="--runtime-env: env_vars",
            next="set it where the machines start (SkyPilot `secrets`, a Kubernetes Secret, the start script's environment)",
        )


def machines(cluster: Cluster) -> list[Node]:
    """The cluster's machines and what they have.

    Raises:
        PlacementError: it has none.
    """
    found = [Node(each.node_ip, each.resources_total or {}) for each in cluster.nodes()]
    if not found:
        raise PlacementError("the cluster has no machine", where=cluster.address, next="ray status on its head")
    return found


def earlier(cluster: Cluster, name: str) -> tuple[Any | None, int]:
    """The submission of this job that is still under way, and the number of the next one."""
    found = [job for job in cluster.list() if (job.metadata or {}).get("raylm_job") == name]
    numbers = [int(tail) for job in found if (tail := job.submission_id.rpartition("-")[2]).isdigit()]
    return next((job for job in found if str(job.status) not in DONE), None), max(numbers, default=0) + 1


def submit(asked: Asked, steps: list[Step], cluster: Cluster, *, detach: bool, interrupt: str) -> int:
    """Send a job and follow it; one that is under way there is followed and not begun twice. Returns its exit status.

    Args:
        interrupt: what Ctrl-C does here: `leave` the job running, or `stop` it.
    """
    running, number = earlier(cluster, asked.job.name)
    if running is None:
        for line in preflight(asked, steps, cluster):
            print(f"  {line}", file=sys.stderr)
        name = cluster.submit(entry(asked, number))
        print(f"submitted as {name}", file=sys.stderr, flush=True)
    else:
        name = running.submission_id
        print(f"{asked.job.name} is under way there as {name}: followed from its first line on", file=sys.stderr, flush=True)
    if detach:
        print(f"next: raylm jobs --address {cluster.address}")
        return 0
    try:
        with MachineWatch(cluster.machines):
            status = cluster.follow(name)
    except KeyboardInterrupt:
        return _interrupted(cluster, name, interrupt)
    if status == 0:
        print(f"next: raylm show {asked.job.root}/{asked.job.name}")
    else:
        print(f"the same command again goes on from what is finished (exit status {status})", file=sys.stderr)
    return status


def _interrupted(cluster: Cluster, name: str, interrupt: str) -> int:
    if interrupt == "stop":
        cluster.stop(name)
        print(f"\n{name} is told to stop; the same command again continues it", file=sys.stderr)
    else:
        print(f"\n{name} goes on there. next: raylm stop {name} --address {cluster.address}", file=sys.stderr)
    return 130


def read_environment(file: str | None) -> dict[str, Any]:
    """A runtime environment from a JSON file. Raises ConfigError for what is none."""
    if file is None:
        return {}
    try:
        found = json.loads(Path(file).read_text())
    except (OSError, ValueError) as cause:
        raise ConfigError("this is no JSON file", where=file) from cause
    if not isinstance(found, dict):
        raise ConfigError("a runtime environment is a JSON object", where=file)
    return found


def run_words(only: str | None, sets: Sequence[str], rebuild: Sequence[str], may_come: Sequence[str] = ()) -> tuple[str, ...]:
    """Options of `raylm run` on the cluster that do what these do here.

    Raises:
        ConfigError: one of them looks secret; lists of jobs and of processes show commands.
    """
    words = ["--only", only] if only else []
    # a file of keys need not lie there
    keys = toml.expand(sets)
    if shown := [key.partition("=")[0] for key in keys if looks_secret(key)]:
        raise ConfigError(
            f"{', '.join(shown)} would be shown in the command of the job in clear text",
            where="--set",
            next="set it where the machines start, as a variable of the environment that the job names",
        )
    words += [word for key in keys for word in ("--set", key)]
    words += [word for group in may_come for word in ("--may-come", group)]
    return (*words, *(word for name in rebuild for word in ("--rebuild", name)))


def _versions(cluster: Cluster) -> list[str]:
    import ray

    there = cluster.version()
    if there != ray.__version__:
        raise ConfigError(
            f"the cluster runs Ray {there}, this machine has {ray.__version__}",
            where=cluster.address,
            next="install the lock (cluster/locks/) of this checkout on its machines, or submit from an environment like theirs",
        )
    return [f"Ray {there} at {cluster.address}"]


def _total(there: list[Node]) -> str:
    kinds = ("CPU", "GPU")
    sums = {kind: sum(node.has.get(kind, 0.0) for node in there) for kind in kinds}
    return ", ".join(f"{value:g} {kind}s" for kind, value in sums.items() if value)


def _said_of(sent: Upload) -> list[str]:
    lines = [f"{sent.files} files, {sent.bytes / 1e6:.1f} MB are sent"]
    if sent.secrets:
        lines.append(f"not sent, they look secret: {', '.join(sent.secrets[:5])}")
    return lines
