"""Deploys an endpoint on this cluster and waits until it is ready, or says why it is not.

Serve's controller: Control, one deployment per model. Beside them: gateways, which are the only ones that clients reach.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.errors import PlacementError, StageError
from raylm.core.room import Patience, is_short, phases
from raylm.core.workers import Workers
from raylm.serve.config import Serve
from raylm.serve.control import Control, ControlSettings
from raylm.serve.engine.app import Served
from raylm.serve.gateway import nodes
from raylm.serve.gateway.settings import GatewaySettings, Holder
from raylm.serve.reach import CONTROL, Reach
from raylm.serve.updates.history import now, who

HELD = "replicas"
POLL_S = 0.25
HEALTH_PERIOD_S = 1.0


class Parts(NamedTuple):
    """What is deployed."""

    served: tuple[Served, ...]
    """Of each model, in the order of the config."""
    control: ControlSettings
    gateway: GatewaySettings
    scaling_folder: str = ""
    """Where the decisions of scaling are kept."""


def application_name(cfg: Serve) -> str:
    """Of the Serve application: endpoints of several jobs stand on one cluster side by side, each with its own port."""
    return f"raylm-{cfg.port}"


def url(cfg: Serve) -> str:
    """Base URL for a client on the machine that runs the job."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(cfg.host, cfg.host)
    return f"http://{host}:{cfg.port}/v1"


def deployment_name(number: int) -> str:
    """Of the replicas of a model, in the order of the config; names of models may hold what those of deployments may not."""
    return "model" if number == 0 else f"model{number}"


def holder(workers: Workers, out: str) -> Holder:
    """This run, as the holder of a port.

    Args:
        out: URI of the endpoint's folder.
    """
    import ray

    if workers.submitted:
        workers.ensure()
    run = ray.get_runtime_context().get_job_id() if ray.is_initialized() else ""
    return Holder(out, run, who(), now())


def check_port(cfg: Serve, workers: Workers, stage: str, out: str) -> None:
    """Raises PlacementError when something else listens on the port, or another endpoint of this cluster. Starts nothing on a
    machine of our own.

    Args:
        out: URI of the endpoint's folder: that which stands there already, `deploy` puts another in the place of.
    """
    import ray

    mine = holder(workers, out)
    if ray.is_initialized() and nodes.check_holder(cfg.port, mine, stage):
        return
    with socket.socket(socket.AF_INET6 if ":" in cfg.host else socket.AF_INET) as probe:
        # a socket that only lingers after its process does not count as taken, as for a gateway
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((cfg.host, cfg.port))
        except OSError as cause:
            raise PlacementError(
                f"port {cfg.port} cannot be used: {cause.strerror}",
                where=f"{cfg.host}:{cfg.port}",
                next=f"see who has it with `ss -ltnp 'sport = :{cfg.port}'`, or add --set stages.{stage}.port={cfg.port + 1}",
            ) from cause


def deploy(cfg: Serve, workers: Workers, parts: Parts, stage: str, stopped: Callable[[], None] = lambda: None) -> None:
    """Start Serve's controller if it does not run, hand it the application, and start the gateways; does not wait for replicas.

    Args:
        stopped: called when the endpoint has been closed.

    Raises:
        PlacementError: another endpoint of this run has another port, one of another run has this port, or a gateway does not
            listen.
    """
    import logging

    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    mine, name = parts.gateway.holder, application_name(cfg)
    nodes.check_holder(cfg.port, mine, stage)

    def start() -> tuple[str, int]:
        # no proxy of Serve's: tokens pass the gateways alone
        serve.start(proxy_location="Disabled")
        return cfg.host, cfg.port

    def stop(_: tuple[str, int]) -> None:
        nodes.end(cfg.gateway.drain_s, cfg.port, mine)
        # on somebody else's cluster only the application is ours; one of this name is another's where that was quicker
        if not workers.submitted:
            serve.shutdown()
        elif deployed:
            serve.delete(name)
        if cfg.gateway.nodes == "every":
            # Control may have put one in the place of one that ended before it ended itself
            nodes.end(0.0, cfg.port, mine)
        stopped()

    deployed = list[str]()
    listening = workers.hold(HELD, start, stop)
    if listening != (cfg.host, cfg.port):
        raise PlacementError(
            f"an endpoint listens on {listening[0]}:{listening[1]}; a cluster has one",
            next=f"--set stages.{stage}.port={listening[1]}, or serve both models behind it with [[stages.{stage}.more]]",
        )
    # an endpoint that stood here has other keys
    nodes.end(cfg.gateway.drain_s, cfg.port, mine)
    # who has a gateway's name has the port, before anything of it is deployed
    started = _start_gateways(cfg, parts.gateway)
    deployed.append(name)
    target = serve.RunTarget(application(cfg, parts), name=name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    _wait_for_gateways(cfg, started)


def application(cfg: Serve, parts: Parts) -> Any:
    """Control and the models, as Serve deploys them."""
    from ray import serve

    from raylm.serve import replica

    drain_s, name = cfg.gateway.drain_s, application_name(cfg)
    models = [
        replica.deployment(model, deployment_name(number), drain_s, parts.scaling_folder).bind(served, Reach(name), drain_s)
        for number, (model, served) in enumerate(zip(cfg.models, parts.served, strict=True))
    ]
    control = serve.deployment(
        Control,
        name=CONTROL,
        num_replicas=1,
        # long polls of gateways, beats of replicas, and guards where there are several gateways
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=0.5,
    )
    return control.bind(parts.control, *models)


def wait_until_ready(cfg: Serve, fingerprints: dict[str, str], deadline: float, stage: str) -> dict[str, str]:
    """Wait until the port answers with these weights; a replica of an earlier stage may still answer with its own. Returns
    the number format that each model computes in.

    Raises:
        StageError: a replica failed to start; with its own last words.
        PlacementError: `deadline` (of time.monotonic) passed; with what Serve says it waits for.
    """
    from ray import serve

    _wake(cfg)
    patience, (replicas,) = Patience(stage), phases(cfg.roles())
    while True:
        found = serve.status().applications.get(application_name(cfg))
        status = found.status.value if found else "NOT_STARTED"
        if status == "RUNNING" and (dtypes := _answers(cfg, fingerprints)):
            return dtypes
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


def _start_gateways(cfg: Serve, settings: GatewaySettings) -> list[Any]:
    """One on this machine, or on every one: Control goes on with it."""
    on = nodes.alive() if cfg.gateway.nodes == "every" else [nodes.here()]
    return [nodes.start(settings, node, new=True) for node in on]


def _wait_for_gateways(cfg: Serve, started: list[Any]) -> None:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        ray.get([each.listening.remote() for each in started], timeout=nodes.START_S)
    except (RayError, OSError, GetTimeoutError) as cause:
        raise PlacementError(
            f"the gateway does not listen: {str(cause).strip().splitlines()[-1]}",
            where=f"{cfg.host}:{cfg.port}",
            next=f"see who has the port with `ss -ltnp 'sport = :{cfg.port}'`",
        ) from None


def _wake(cfg: Serve) -> None:
    """Models that may sleep are awake while they are compared."""
    from ray import serve

    for number, model in enumerate(cfg.models):
        if model.replicas.min == 0:
            serve.get_deployment_handle(deployment_name(number), application_name(cfg)).awake.remote()


def _answers(cfg: Serve, fingerprints: dict[str, str]) -> dict[str, str]:
    """What replicas with these weights compute in; nothing while one of them is missing."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url(cfg).removesuffix("/v1") + "/health", timeout=5) as reply:
            models = json.load(reply)["models"]
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return {}
    found = {name: models.get(name, {}).get("served", {}).get(fingerprint) for name, fingerprint in fingerprints.items()}
    return found if all(found.values()) else {}


def _last_words(found: Any) -> str:
    """The last line of what Serve reports; the traceback above it is in the logs."""
    texts = [found.message, *(deployment.message for deployment in found.deployments.values())] if found else []
    lines = [line.strip() for text in texts for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
