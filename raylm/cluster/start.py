"""Starts Ray on one machine of a job and, on the head, runs a command on the cluster: what every rendered spec calls.

all machines: raylm cluster start -- raylm run jobs/x.toml
head:   ray start --head -> all machines have joined -> ray job submit COMMAND -> its exit status -> Ray ends
others: ray start --address -> until the head ends, which its closed port says
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

from raylm.cluster.contract import BASE, TOKEN, TOKEN_PATH, Place, Ports, own_address, place, token_file
from raylm.cluster.jobs import Cluster, Entry
from raylm.cluster.watch import Machine, MachineWatch, machines_at
from raylm.core.errors import ConfigError, PlacementError

TRIES = 5
START_S = 120.0
"""Seconds that Ray may take to start on a machine, for each of the tries."""
JOIN_S = 1800.0
"""Seconds that machines may come after each other."""
END_S = 5.0
GONE_S = 6.0
"""Seconds for which nothing may listen on the head's port before its other machines end, too; Ray's own wait is a minute."""
_GRAVE = re.compile(r"\b[EF] \d+ \d+\]|\w*(Error|Exception)\b|[Ff]atal|[Cc]heck failed|timed out|[Ff]ailed|in use")
QUICK = {
    # a dead machine is known after 5 s and one whose cable was pulled after 15 s, not after 15 and 65
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
MADE_BY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variables of another cluster that must not lead this one astray."""


class Node(NamedTuple):
    """Ray on this machine."""

    where: Place
    address: str
    ports: Ports
    temp: Path
    variables: dict[str, str]

    @property
    def dashboard(self) -> str:
        return f"http://{self.address}:{self.ports.dashboard}"


def main(command: Sequence[str], stay: bool = False) -> int:
    """Start this machine; on the head run `command` and return its exit status.

    Args:
        stay: what the command leaves on the cluster (an endpoint) goes on until this process is told to end.

    Raises:
        ConfigError: the machine is told nothing sensible of its place.
        PlacementError: Ray did not start here, or machines are missing.
    """
    node = prepare(os.environ)
    # a scheduler that takes the machine back sends SIGTERM: Ray must not stay behind
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray = _started(node)
    try:
        return _lead(node, ray, command, stay) if node.where.is_head else _follow(node, ray)
    finally:
        _end(ray)


def prepare(variables: Mapping[str, str]) -> Node:
    """What is known of this machine, and the environment of its Ray: token, no telemetry, quick health checks."""
    where = place(variables)
    try:
        ports = Ports.of(int(variables.get(BASE, "6379")))
    except ValueError as cause:
        raise ConfigError(f"{BASE} must be a port", where=variables[BASE]) from cause
    # short: Ray's sockets lie below it, and their names are at most 107 bytes long
    temp = Path(tempfile.gettempdir()) / f"raylm-ray-{os.getuid()}-{ports.gcs}"
    token = token_file(variables, where, temp.with_suffix(".auth"))
    kept = {name: value for name, value in variables.items() if name != TOKEN and name not in MADE_BY}
    made = {"RAY_AUTH_MODE": "token", TOKEN_PATH: str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    return Node(where, own_address(where, ports.gcs), ports, temp, {**QUICK, **kept, **made})


def start_command(node: Node) -> list[str]:
    """The command that starts Ray here, every port pinned. The dashboard listens on the node's address alone: loopback where the
    machine is the whole cluster."""
    ports = node.ports
    options: dict[str, Any] = {
        "node-ip-address": node.address,
        "node-manager-port": ports.node_manager,
        "object-manager-port": ports.object_manager,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "dashboard-agent-listen-port": ports.agent,
        "dashboard-agent-grpc-port": ports.agent_grpc,
        "metrics-export-port": ports.metrics,
        "min-worker-port": ports.first_worker,
        "max-worker-port": ports.last_worker,
    }
    if node.where.is_head:
        head = {"port": ports.gcs, "dashboard-host": node.address, "dashboard-port": ports.dashboard}
        options |= {**head, "ray-client-server-port": ports.client, "temp-dir": node.temp}
    else:
        options |= {"address": f"{node.where.head}:{ports.gcs}"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    head = ["--head"] if node.where.is_head else []
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *head, *words]


def _started(node: Node) -> subprocess.Popen[bytes]:
    """Ray's process group on this machine, alive. Ray gives a node 15 s to start, which a busy machine misses: tried again."""
    if not node.where.is_head:
        _wait_for_head(node)
    told = ""
    for attempt in range(1, TRIES + 1):
        began = time.time()
        with tempfile.TemporaryFile() as log:
            if (ray := _tried(node, log)) is not None:
                _say(f"Ray runs on {node.address} ({'head' if node.where.is_head else f'machine {node.where.rank}'})")
                return ray
            log.seek(0)
            told = last_words(log.read().decode("utf-8", "replace"), node.temp, began)
        _say(f"Ray did not start on {node.address} (try {attempt} of {TRIES}): {told}")
        time.sleep(attempt)
    raise PlacementError(
        f"Ray did not start in {TRIES} tries: {told}", where=node.address, next=f"its logs lie in {node.temp}/session_latest/logs"
    )


def _tried(node: Node, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
    """Ray, started here and alive; None where it did not come up, and then nothing of it is left."""
    ray, runs = subprocess.Popen(start_command(node), env=node.variables, stdout=log, stderr=log, start_new_session=True), False
    try:
        runs = _runs(node, ray)
        return ray if runs else None
    finally:
        if not runs:
            _end(ray)


def last_words(printed: str, temp: Path, since: float) -> str:
    """Why Ray did not start: `ray start` itself says only that it timed out, the raylet's own log has the reason.

    Args:
        printed: by `ray start`.
        temp: Ray's folder on this machine.
        since: when it was started (time.time): what lies there of earlier sessions says nothing.
    """
    logs = temp / "session_latest" / "logs"
    for name in ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out"):
        with suppress(OSError):
            if (logs / name).stat().st_mtime < since:
                continue
            lines = (logs / name).read_text(errors="replace").splitlines()[-200:]
            if found := [line.strip() for line in lines if _GRAVE.search(line)]:
                return f"{found[-1][:300]} ({name})"
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    grave = [line for line in lines if _GRAVE.search(line)]
    return (grave or lines or ["it printed nothing"])[-1][:300]


def _runs(node: Node, ray: subprocess.Popen[bytes]) -> bool:
    """Whether Ray came up: the head answers for its cluster, another machine is listed there."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and ray.poll() is None:
        found = alive(node)
        # Ray itself puts the machine's address in the place of loopback
        if found if node.where.is_head else any(each.address == node.address for each in found):
            return True
        time.sleep(0.5)
    return False


def there(node: Node) -> list[Machine] | None:
    """Machines of the cluster; None while it cannot be asked."""
    head = node.address if node.where.is_head else node.where.head
    return machines_at(f"http://{head}:{node.ports.dashboard}", Path(node.variables[TOKEN_PATH]).read_text().strip())


def alive(node: Node) -> list[Machine]:
    """Those that are alive; none while the cluster cannot be asked."""
    return [machine for machine in there(node) or [] if machine.is_alive]


def _wait_for_head(node: Node) -> None:
    deadline, said = time.monotonic() + JOIN_S, time.monotonic()
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((node.where.head, node.ports.gcs), timeout=5):
            return
        if time.monotonic() - said > 30:
            said = time.monotonic()
            _say(f"waits for the head at {node.where.head}:{node.ports.gcs}")
        time.sleep(1)
    raise PlacementError(f"the head did not come within {JOIN_S:.0f} s", where=f"{node.where.head}:{node.ports.gcs}")


def _lead(node: Node, ray: subprocess.Popen[bytes], command: Sequence[str], stay: bool) -> int:
    deadline, missing = time.monotonic() + JOIN_S, -1
    while (joined := len(alive(node))) < node.where.num_nodes:
        if ray.poll() is not None:
            raise PlacementError(
                f"Ray ended on the head: {last_words('', node.temp, 0.0)}",
                where=node.address,
                next=f"see {node.temp}/session_latest/logs",
            )
        if time.monotonic() > deadline:
            raise PlacementError(f"{joined} of {node.where.num_nodes} machines joined within {JOIN_S:.0f} s", where=node.address)
        if missing != (missing := node.where.num_nodes - joined):
            _say(f"waits for {missing} more of {node.where.num_nodes} machines")
        time.sleep(1)
    inner = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}"
    cluster = Cluster(node.dashboard, Path(node.variables[TOKEN_PATH]))
    name = cluster.submit(Entry(f"raylm-{uuid4().hex[:8]}", shlex.join(["bash", "-c", inner]), {}, {}))
    try:
        with MachineWatch(partial(there, node)):
            status = cluster.follow(name)
            if not stay or status:
                return status
            _say("serves until this process is told to end")
            return _serve(node, ray)
    except KeyboardInterrupt:
        # its driver hears SIGTERM and may save what it has; the scheduler gives it seconds
        cluster.stop(name)
        return 130


def _serve(node: Node, ray: subprocess.Popen[bytes]) -> int:
    """Until this process is told to end. Raises PlacementError where Ray ends before: a scheduler that may start it again must
    hear of it."""
    ray.wait()
    raise PlacementError(
        f"Ray ended, and the endpoint with it: {last_words('', node.temp, 0.0)}",
        where=node.address,
        next=f"see {node.temp}/session_latest/logs",
    )


def _follow(node: Node, ray: subprocess.Popen[bytes]) -> int:
    """Until Ray ends here, or the head has ended: its machine answers, and nothing listens there. A head that does not answer
    at all (a cable, a machine that boots) is left to Ray, which waits for a minute; one that keeps its state may come back."""
    comes_back, refused_at = node.variables.get("RAY_gcs_storage", "memory") != "memory", 0.0
    while ray.poll() is None:
        time.sleep(1)
        refused_at = (refused_at or time.monotonic()) if _refuses(node) else 0.0
        if refused_at and not comes_back and time.monotonic() - refused_at > GONE_S:
            _say(f"the head at {node.where.head} has ended")
            break
    return 0


def _refuses(node: Node) -> bool:
    """Whether the head's machine says that nothing listens on the port of its GCS."""
    try:
        socket.create_connection((node.where.head, node.ports.gcs), timeout=2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _end(ray: subprocess.Popen[bytes]) -> None:
    """End the Ray that was started here, and no other: `ray stop` would end every Ray of the machine."""
    import psutil

    try:
        # not its process group: Ray's daemons have groups of their own
        family = psutil.Process(ray.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    ray.terminate()
    with suppress(subprocess.TimeoutExpired):
        ray.wait(END_S)
    ray.kill()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
