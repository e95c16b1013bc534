"""Accelerators: peak FLOPS, memory, links, price; data in `devices.toml`."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError


class Device(NamedTuple):
    """One accelerator."""

    bfloat16: float
    """Dense peak, TFLOP/s."""
    memory_gb: float
    memory_gb_s: float
    """Bandwidth of its own memory."""
    intra_gb_s: float
    """To a device of the same machine, each direction."""
    inter_gb_s: float
    """To one of another machine."""
    per_machine: int
    price_h: float
    """US dollars per hour, typical."""
    float8: float = 0.0
    """Dense peak, TFLOP/s; 0 where there is none."""


@lru_cache
def devices() -> dict[str, Device]:
    """All that are known, by name."""
    found = tomllib.loads((Path(__file__).parent / "devices.toml").read_text())
    return {name: Device(**values) for name, values in found.items()}


def device_of(name: str) -> Device:
    """The device called `name`. Raises ConfigError that names those which are known."""
    if name not in devices():
        raise ConfigError(f"no device is called {name!r}.{did_you_mean(name, devices())}", next='workers = {device = "h100"}')
    return devices()[name]
