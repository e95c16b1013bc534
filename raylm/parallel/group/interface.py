"""Binds gloo and NCCL to the network interface that has Ray's address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = "127.0.0.1"


def bind_interface(alone: bool) -> None:
    """Set `VARIABLES` in this process, unless the user did.

    By itself gloo takes the address that the host's name resolves to, which is 127.0.1.1 on a plain Debian: no other machine
    reaches it. NCCL takes the first interface that looks fit, which may be another network than Ray's.

    Args:
        alone: the cluster is this machine; its ranks talk over loopback, which no change of network touches.
    """
    import psutil
    import ray.util

    address = LOOPBACK if alone else ray.util.get_node_ip_address()
    if name := interface_of(address, psutil.net_if_addrs()):
        for variable in VARIABLES:
            os.environ.setdefault(variable, name)


def interface_of(address: str, interfaces: Mapping[str, Any]) -> str | None:
    """Name of the interface that has `address`; None when none has it (a NAT's outer address)."""
    for name, addresses in interfaces.items():
        # psutil writes an IPv6 address with its zone: fe80::1%eth0
        if any(one.address.split("%")[0] == address for one in addresses):
            return name
    return None
