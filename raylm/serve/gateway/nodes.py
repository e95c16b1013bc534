"""Starts gateways as detached actors, each pinned to its machine, finds them by name, and ends them."""

from __future__ import annotations

import contextlib
from typing import Any

from raylm.serve.gateway.settings import GatewaySettings

NAMESPACE = "raylm"
PREFIX = "raylm-gateway-"
START_S = 60.0
END_S = 5.0


def start(settings: GatewaySettings, node: str) -> Any:
    """The gateway on a machine, started now where there is none; a handle.

    Args:
        node: Ray's id of the machine.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raylm.serve.gateway.actor import GatewayActor

    name = f"{PREFIX}{settings.port}-{node[:12]}"
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "num_cpus": 0,
        # a call for each change of the table, and for each client none
        "max_concurrency": 100,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    return ray.remote(GatewayActor).options(**options).remote(settings._replace(name=name))


def here() -> str:
    """Ray's id of this machine."""
    import ray

    return ray.get_runtime_context().get_node_id()


def alive() -> list[str]:
    """Ray's ids of the machines of the cluster."""
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def keep_on_every(settings: GatewaySettings) -> None:
    """One on each machine that lives; those of machines that are gone are forgotten."""
    there = alive()
    for node in there:
        start(settings, node)
    wanted = {f"{PREFIX}{settings.port}-{node[:12]}" for node in there}
    for name in names(settings.port):
        if name not in wanted:
            _kill(name)


def names(port: int) -> list[str]:
    """Of the gateways of this cluster that listen on `port`."""
    import ray

    prefix = f"{PREFIX}{port}-"
    listed: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in listed if each["namespace"] == NAMESPACE and each["name"].startswith(prefix)]


def end(drain_s: float, port: int) -> None:
    """Drain the gateways of this cluster that listen on `port`, at most for so long, and end them."""
    import ray
    from ray.exceptions import RayError

    found = []
    for name in names(port):
        with contextlib.suppress(ValueError, RayError):
            found.append((name, ray.get_actor(name, NAMESPACE).drain.remote(drain_s)))
    if found:
        ray.wait([reference for _, reference in found], num_returns=len(found), timeout=drain_s + END_S)
    for name, _ in found:
        _kill(name)


def _kill(name: str) -> None:
    import ray
    from ray.exceptions import RayError

    with contextlib.suppress(ValueError, RayError):
        ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)
