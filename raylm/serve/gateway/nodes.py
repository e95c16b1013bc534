"""Starts gateways as detached actors, each pinned to its machine, finds them by name, and ends them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from raylm.core.errors import PlacementError
from raylm.serve.gateway.settings import GatewaySettings, Holder

NAMESPACE = "raylm"
PREFIX = "raylm-gateway-"
START_S = 60.0
END_S = 5.0
HOLDER_S = 30.0
"""Seconds that a gateway, which may just be starting again, has to say whose it is."""


def start(settings: GatewaySettings, node: str, new: bool = False) -> Any:
    """The gateway on a machine, started now where there is none; a handle.

    Args:
        node: Ray's id of the machine.
        new: there must be none.

    Raises:
        PlacementError: `new`, and another endpoint of this cluster has one there.
    """
    until = time.monotonic() + START_S
    while True:
        try:
            return _made(settings, node, new)
        except ValueError as taken:
            if time.monotonic() > until:
                raise PlacementError(f"the gateway does not start: {taken}", where=f"{settings.host}:{settings.port}") from None
        # somebody was quicker; or an earlier Control of this endpoint put one there, or Ray has not forgotten one that was ended
        if check_holder(settings.port, settings.holder):
            _kill(_name(settings.port, node))
        time.sleep(0.1)


def _made(settings: GatewaySettings, node: str, new: bool) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raylm.serve.gateway.actor import GatewayActor

    name = _name(settings.port, node)
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": not new,
        "max_restarts": -1,
        "num_cpus": 0,
        # a call for each change of the table, and for each client none
        "max_concurrency": 100,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    return ray.remote(GatewayActor).options(**options).remote(settings._replace(name=name))


def _name(port: int, node: str) -> str:
    return f"{PREFIX}{port}-{node[:12]}"


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
    wanted = {_name(settings.port, node) for node in there}
    for name in names(settings.port):
        if name not in wanted:
            _kill(name)


def names(port: int) -> list[str]:
    """Of the gateways of this cluster that listen on `port`."""
    import ray

    prefix = f"{PREFIX}{port}-"
    listed: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in listed if each["namespace"] == NAMESPACE and each["name"].startswith(prefix)]


def holders(port: int) -> dict[str, Holder]:
    """Whose each gateway of this cluster is that listens on `port`, by its name; nobody's where it does not say."""
    return {name: holder for name in names(port) if (holder := _holder(name)) is not None}


def _holder(name: str) -> Holder | None:
    """Whose a gateway is; None where it has ended."""
    import ray
    from ray.exceptions import ActorDiedError, RayError

    until = time.monotonic() + HOLDER_S
    while True:
        try:
            told: Any = ray.get(ray.get_actor(name, NAMESPACE).holder.remote(), timeout=HOLDER_S)
            return told
        except (ValueError, ActorDiedError):
            return None
        except RayError:
            if time.monotonic() > until:
                return Holder()
            time.sleep(0.1)


def check_holder(port: int, mine: Holder, stage: str = "STAGE") -> bool:
    """Whether gateways of this cluster listen on `port`, which are all of the same endpoint, or of the same run, as `mine`.

    Raises:
        PlacementError: another endpoint has the port.
    """
    found = holders(port)
    for other in found.values():
        if not mine.is_one_with(other):
            whose = f"{other.uri}, served by {other.by} since {other.since}" if other.uri else "one that does not say whose it is"
            raise PlacementError(
                f"another endpoint of this cluster has port {port}: {whose}",
                next=f"--set stages.{stage}.port={port + 1}, or serve both models behind one port with [[stages.{stage}.more]]",
            )
    return bool(found)


def end(drain_s: float, port: int, mine: Holder | None = None) -> None:
    """Drain the gateways of this cluster that listen on `port`, at most for so long, and end them.

    Args:
        mine: leave those that say that they belong neither to this endpoint nor to this run.
    """
    import ray
    from ray.exceptions import RayError

    found = []
    ours = names(port) if mine is None else [name for name, of in holders(port).items() if mine.is_one_with(of) or not of.uri]
    for name in ours:
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
