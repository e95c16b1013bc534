"""Network interfaces: gloo and NCCL are bound to the one with Ray's address."""

from __future__ import annotations

import os
from types import SimpleNamespace

from raylm.parallel.group.interface import VARIABLES, bind_interface, interface_of


def interfaces(**addresses):
    return {name: [SimpleNamespace(address=one) for one in found] for name, found in addresses.items()}


def test_the_interface_is_the_one_that_has_the_address():
    there = interfaces(lo=["127.0.0.1", "::1"], eth0=["10.77.0.2", "fe80::1%eth0"], ib0=["10.78.0.2"])
    assert interface_of("10.77.0.2", there) == "eth0"
    assert interface_of("10.78.0.2", there) == "ib0"
    assert interface_of("fe80::1", there) == "eth0"
    # a host name that resolves to 127.0.1.1 is on no interface, nor is the outer address of a NAT
    assert interface_of("127.0.1.1", there) is None
    assert interface_of("203.0.113.9", there) is None


def test_what_the_user_set_stays_and_loopback_serves_one_machine(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=ib0")
    bind_interface(alone=True)
    assert os.environ.pop("GLOO_SOCKET_IFNAME").startswith("lo")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=ib0"
