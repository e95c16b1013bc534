"""What a machine of a cluster is told of its place: rank, number of machines, the head's address; and the ports of all.

Read from RAYLM_NODE_RANK, RAYLM_NUM_NODES and RAYLM_HEAD_ADDRESS, else from what SkyPilot or Slurm set; else the machine is
alone.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from raylm.core.errors import ConfigError

TOKEN = "RAYLM_RAY_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
BASE = "RAYLM_RAY_PORT"
LOOPBACK = "127.0.0.1"


class Place(NamedTuple):
    """One machine among those of a job."""

    rank: int
    num_nodes: int
    head: str
    """Address of the head as other machines reach it; loopback where there are none."""

    @property
    def is_head(self) -> bool:
        return self.rank == 0


class Ports(NamedTuple):
    """All ports of Ray that can be pinned, for a firewall or a network policy to name."""

    gcs: int
    dashboard: int
    node_manager: int
    object_manager: int
    runtime_env_agent: int
    agent: int
    agent_grpc: int
    metrics: int
    client: int
    first_worker: int
    last_worker: int

    @classmethod
    def of(cls, base: int = 6379) -> Ports:
        """The ports for a cluster whose head listens on `base`; with Ray's own base its dashboard is at 8265 as people know it.
        None of them is one of SkyPilot's own Ray (6380, 8266, 52365)."""
        near = base + 101
        return cls(
            gcs=base,
            dashboard=base + 1886,
            node_manager=near,
            object_manager=near + 1,
            runtime_env_agent=near + 2,
            agent=near + 3,
            agent_grpc=near + 4,
            metrics=near + 5,
            client=near + 6,
            first_worker=base + 4621,
            last_worker=base + 5620,
        )


def place(variables: Mapping[str, str]) -> Place:
    """Where this machine stands.

    Raises:
        ConfigError: what it is told does not fit together.
    """
    for rank, count, head in (
        ("RAYLM_NODE_RANK", "RAYLM_NUM_NODES", "RAYLM_HEAD_ADDRESS"),
        ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"),
        ("SLURM_NODEID", "SLURM_JOB_NUM_NODES", "RAYLM_HEAD_ADDRESS"),
    ):
        if rank in variables:
            return _placed(variables, rank, count, head)
    return Place(0, 1, LOOPBACK)


def _placed(variables: Mapping[str, str], rank: str, count: str, head: str) -> Place:
    try:
        at, of = int(variables[rank]), int(variables.get(count, "1"))
    except ValueError as cause:
        raise ConfigError(f"{rank} and {count} must be whole numbers", where=f"{rank}={variables[rank]}") from cause
    if not 0 <= at < of:
        raise ConfigError(f"{rank} = {at} is no machine of {of}", where=count, next=f"{rank} counts from 0")
    first = variables.get(head, "").split()
    if of > 1 and not first:
        raise ConfigError(f"{of} machines, and none is told where the head is", where=head, next=f"set {head} on all of them")
    return Place(at, of, first[0] if of > 1 else LOOPBACK)


def own_address(where: Place, port: int) -> str:
    """The address of this machine that the head's network reaches. Sends nothing.

    Raises:
        ConfigError: the head's name is not known here.
    """
    if where.num_nodes == 1:
        return LOOPBACK
    try:
        head = socket.gethostbyname(where.head)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((head, port))
            own = str(probe.getsockname()[0])
    except OSError as cause:
        raise ConfigError(
            f"the head {where.head!r} cannot be reached: {cause}", next="name an address that all machines resolve"
        ) from cause
    if own.startswith("127.") and not where.is_head:
        raise ConfigError(f"the head {where.head!r} is this machine's loopback ({head})", next="name the head's own address")
    # a Debian resolves its own name to 127.0.1.1
    return _outer(where.head) if own.startswith("127.") else own


def _outer(name: str) -> str:
    import psutil

    found = [
        one.address
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{name!r} resolves to loopback on the head, which has {len(found)} other addresses ({', '.join(found)})",
            next="set RAYLM_HEAD_ADDRESS to one of them on all machines",
        )
    return found[0]


def token_file(variables: Mapping[str, str], where: Place, folder: Path) -> Path:
    """The file with the token of this Ray cluster, mode 0600. Made from RAYLM_RAY_TOKEN, or new where the machine is alone.

    Raises:
        ConfigError: several machines, and no token that all of them know; or a file that others may read, or a folder that
            they may write to.
    """
    if given := variables.get(TOKEN_PATH):
        path = Path(given)
        if not path.is_file():
            raise ConfigError("there is no token", where=given, next=f"write one there, mode 0600, or set {TOKEN}")
        if path.stat().st_mode & 0o077:
            raise ConfigError("others may read the token", where=given, next=f"chmod 600 {given}")
        return path
    value = variables.get(TOKEN, "")
    if not value and where.num_nodes > 1:
        raise ConfigError(
            "machines of one cluster need one token",
            where=TOKEN,
            next=f"set the secret {TOKEN} on all, or {TOKEN_PATH} to a file",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    there = folder.lstat()
    if there.st_uid != os.getuid() or not stat.S_ISDIR(there.st_mode) or there.st_mode & 0o022:
        # it lies where everybody may make one: whoever did could put a token there that he knows
        raise ConfigError("others may write where the token would lie", where=str(folder), next="remove it, or set TMPDIR")
    path = folder / "token"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value or secrets.token_hex(32))
    return path
