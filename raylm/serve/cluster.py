"""Deploys a Serve application on this cluster and waits until it is ready, or says why it is not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from raylm.core.errors import PlacementError, StageError
from raylm.core.room import Patience, is_short, phases
from raylm.core.workers import Workers
from raylm.serve.app import NAME
from raylm.serve.config import Serve
from raylm.serve.door import DTYPE, SERVED

HELD = "replicas"
POLL_S = 0.25


def url(cfg: Serve) -> str:
    """Base URL for a client on the machine that runs the job."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(cfg.host, cfg.host)
    return f"http://{host}:{cfg.port}/v1"


def check_port(cfg: Serve, workers: Workers, stage: str) -> None:
    """Raises PlacementError when something else listens on the port. Starts nothing on a machine of our own."""
    if _serve_runs(workers):
        # then it is most likely our own proxy that listens; `deploy` compares the ports
        return
    with socket.socket(socket.AF_INET6 if ":" in cfg.host else socket.AF_INET) as probe:
        # a socket that only lingers after its process does not count as taken, as for Serve's own proxy
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((cfg.host, cfg.port))
        except OSError as cause:
            raise PlacementError(
                f"port {cfg.port} cannot be used: {cause.strerror}",
                where=f"{cfg.host}:{cfg.port}",
                next=f"see who has it with `ss -ltnp 'sport = :{cfg.port}'`, or add --set stages.{stage}.port={cfg.port + 1}",
            ) from cause


def deploy(cfg: Serve, workers: Workers, application: Any, stage: str, stopped: Callable[[], None] = lambda: None) -> None:
    """Start Serve's controller and proxy if they do not run, and hand them the application; does not wait for it.

    Args:
        stopped: called when the endpoint has been closed.
    """
    import logging

    from ray import serve
    from ray.serve.config import HTTPOptions

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    def start() -> tuple[str, int]:
        # one proxy: the address that was asked for is an address of one machine
        serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host=cfg.host, port=cfg.port))
        return cfg.host, cfg.port

    def stop(_: tuple[str, int]) -> None:
        # on somebody else's cluster only the application is ours; other endpoints stay
        if workers.submitted:
            serve.delete(NAME)
        else:
            serve.shutdown()
        stopped()

    listening = workers.hold(HELD, start, stop)
    if listening != (cfg.host, cfg.port):
        raise PlacementError(
            f"Serve listens on {listening[0]}:{listening[1]}; a cluster has one port",
            next=f"--set stages.{stage}.port={listening[1]}",
        )
    serve.run_many([serve.RunTarget(application, name=NAME)], wait_for_applications_running=False)


def wait_until_ready(cfg: Serve, fingerprint: str, deadline: float, stage: str) -> str:
    """Wait until the port answers with these weights; a replica of an earlier stage may still answer with its own. Returns
    the format that the replica computes in.

    Raises:
        StageError: the replica failed to start; with its own last words.
        PlacementError: `deadline` (of time.monotonic) passed; with what Serve says it waits for.
    """
    from ray import serve

    patience, (replicas,) = Patience(stage), phases(cfg.roles())
    while True:
        found = serve.status().applications.get(NAME)
        status = found.status.value if found else "NOT_STARTED"
        if status == "RUNNING" and (dtype := _answers(cfg, fingerprint)):
            return dtype
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise StageError(
                f"the replica did not start: {_last_words(found)}",
                where=url(cfg),
                next="replica logs lie in Ray's session folder, logs/serve",
            )
        if status == "DEPLOYING" and is_short(replicas):
            patience.look(replicas, also=f"; Serve: {_last_words(found)}")
        if time.monotonic() > deadline:
            raise PlacementError(
                f"waited {cfg.start_s:g} s for the endpoint, which is {status}: {_last_words(found)}",
                where=url(cfg),
                next="lower workers.cpus or workers.gpus, or raise start_s",
            )
        time.sleep(POLL_S)


def _serve_runs(workers: Workers) -> bool:
    import ray

    if workers.submitted:
        workers.ensure()
    if not ray.is_initialized():
        return False
    from ray import serve

    return bool(serve.status().proxies)


def _answers(cfg: Serve, fingerprint: str) -> str | None:
    """What the replica with these weights computes in; None while there is none."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url(cfg).removesuffix("/v1") + "/health", timeout=5) as reply:
            return reply.headers[DTYPE] if reply.headers[SERVED] == fingerprint else None
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _last_words(found: Any) -> str:
    """The last line of what Serve reports; the traceback above it is in the logs."""
    texts = [found.message, *(deployment.message for deployment in found.deployments.values())] if found else []
    lines = [line.strip() for text in texts for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
