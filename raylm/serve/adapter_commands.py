"""`raylm adapters`: LoRA adapters of an endpoint, listed, loaded and unloaded while it serves."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError, StageError
from raylm.core.storage import Folder
from raylm.serve.api.models import FAILED
from raylm.serve.directory import AdapterOrder, Replica
from raylm.serve.operator import Call, control, endpoint_of
from raylm.serve.served_model import checked_name

LOAD_S = 300.0
"""Seconds in which all replicas must have loaded an adapter."""
POLL_S = 0.3


class Standing(NamedTuple):
    """How far one adapter is."""

    name: str
    uri: str
    have: int
    replicas: int
    failed: dict[str, str]
    """Why a replica does not have it."""

    @property
    def done(self) -> bool:
        """Every replica that answers has it."""
        return 0 < self.replicas == self.have

    def __str__(self) -> str:
        why = "; ".join(f"{replica}: {why}" for replica, why in self.failed.items())
        return f"failed: {why}" if why else f"on {self.have} of {self.replicas} replicas"


def standing(order: AdapterOrder, model: str, rows: Sequence[Replica]) -> Standing:
    """How far the replicas of a model are with an adapter that is ordered."""
    mine = [row.address for row in rows if row.address.model == model and row.state in ("ready", "spare")]
    failed = {each.replica: why for each in mine if (why := (each.lineage.get(FAILED) or {}).get(order.name))}
    return Standing(order.name, order.uri, sum(order.name in each.adapters for each in mine), len(mine), failed)


def run(arguments: argparse.Namespace) -> int:
    """`raylm adapters list | load | unload`."""
    endpoint = endpoint_of(arguments.endpoint)
    model = arguments.model or endpoint.facts["model_name"]
    with control(endpoint) as call:
        return {"list": _list, "load": _load, "unload": _unload}[arguments.action](call, model, arguments)


def load(call: Call, model: str, order: AdapterOrder, seconds: float = LOAD_S) -> Standing:
    """Order an adapter and wait until every replica has it.

    Raises:
        ConfigError: the name is none, or taken.
        StageError: a replica cannot load it, or takes longer: the order is withdrawn, so that no request finds it by chance.
    """
    try:
        checked_name(order.name)
    except ValueError as cause:
        raise ConfigError(str(cause), where=order.name) from cause
    call("load_adapter", model, order.name, order.uri)
    until = time.monotonic() + seconds
    while True:
        found = standing(order, model, call("view").replicas)
        if found.done:
            return found
        if found.failed or time.monotonic() > until:
            call("unload_adapter", model, order.name)
            why = f"it {found}" if found.failed else f"after {seconds:g} s it is {found}"
            raise StageError(f"the adapter {order.name!r} is not there: {why}", where=order.uri, next="mend it and load it again")
        time.sleep(POLL_S)


def check_loaded(call: Call, model: str, orders: Sequence[AdapterOrder], seconds: float = LOAD_S) -> None:
    """Wait until every replica has the adapters that a job names; a model that sleeps has none to ask. Raises StageError where
    one cannot load them."""
    until = time.monotonic() + seconds
    for order in orders:
        found = standing(order, model, call("view").replicas)
        while found.replicas and not found.done:
            if found.failed or time.monotonic() > until:
                raise StageError(
                    f"the adapter {order.name!r} of {model}: {found}", where=order.uri, next="drop it from `adapters`"
                )
            time.sleep(POLL_S)
            found = standing(order, model, call("view").replicas)


def _load(call: Call, model: str, arguments: argparse.Namespace) -> int:
    at = Folder(arguments.path)
    # what lies here is found by its whole path from everywhere; other words are a URI, or a name of the hub
    uri = at.uri if "://" not in arguments.path and at.exists() else arguments.path
    found = load(call, model, AdapterOrder(arguments.name, uri))
    print(f"{found.name}: {found}, beside {model}\nnext: ask for it with `model = {found.name!r}`")
    return 0


def _unload(call: Call, model: str, arguments: argparse.Namespace) -> int:
    call("unload_adapter", model, arguments.name)
    print(f"{arguments.name}: unloaded; what is under way with it goes on\nnext: raylm adapters list {arguments.endpoint}")
    return 0


def _list(call: Call, model: str, arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    rows: Any = call("view").replicas
    orders = call("adapters", model)
    table = Table("name", "from", "state", box=None)
    for order in orders:
        table.add_row(order.name, order.uri, str(standing(order, model, rows)))
    Console().print(table) if orders else print(f"{model} has no adapters")
    print(f"next: raylm adapters load {arguments.endpoint} NAME PATH")
    return 0
