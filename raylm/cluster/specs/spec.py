"""What every kind of spec is written from."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from raylm.cluster.contract import TOKEN
from raylm.cluster.machines import Pool

SECRETS = ("RAYLM_API_KEY", "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Secrets that a job may need beside Ray's token; those that nobody sets are left out of the spec by its reader."""


class Spec(NamedTuple):
    """A job and the machines that hold it."""

    job: str
    path: str
    """Of the job file, from the folder that is sent."""
    words: tuple[str, ...]
    """Of the command on the head: raylm run ..."""
    pools: tuple[Pool, ...]
    equal: Pool
    """The same as equal machines alone."""
    ports: tuple[int, ...]
    """Of endpoints."""
    image: str = ""
    file: str = ""
    """Where the spec is written."""
    toml: str = ""
    """The job file's text, for a spec that brings it along."""

    @property
    def name(self) -> str:
        """Of cluster and task: letters, digits and hyphens; a RayJob's has 47 at most."""
        return re.sub(r"[^a-z0-9]+", "-", f"raylm-{self.job}".lower()).strip("-")[:47].strip("-")

    @property
    def command(self) -> str:
        return shlex.join(self.words)

    @property
    def stay(self) -> str:
        """The option that keeps a cluster whose job leaves an endpoint."""
        return "--stay " if self.ports else ""

    @property
    def told(self) -> str:
        """The machines in words."""
        return "; ".join(in_words(pool) for pool in self.pools)


def in_words(pool: Pool) -> str:
    """`4 x 8 h100, 32 CPUs, 640 GB (sft, policy)`."""
    gpus = f"{pool.gpus} {pool.device or 'GPU'}, " if pool.gpus else ""
    stages = f" ({', '.join(pool.stages)})" if pool.stages else ""
    return f"{pool.count} x {gpus}{pool.cpus} CPUs, {pool.memory_gb} GB{stages}"


def header(spec: Spec, kind: str, launch: list[str]) -> str:
    """The comment above a spec: what it is for, and how it is launched."""
    lines = [
        f"# {spec.job} by {kind}. Made by `raylm cluster render {spec.path} --to ...`: yours to read and change.",
        f"# Machines: {spec.told}.",
        "#",
        *(f"#   {line}" for line in launch),
        "",
    ]
    return "\n".join(lines) + "\n"


def token_hint() -> str:
    """How the token of the Ray cluster is made."""
    return f"export {TOKEN}=$(openssl rand -hex 32)   # Ray's token: all machines of the cluster have this one"
