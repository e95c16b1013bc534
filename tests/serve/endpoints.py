"""What a test needs to start an endpoint of its own: a port, and a stage's context without a job."""

from __future__ import annotations

import socket
from typing import Any

from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.core.workers import Workers


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def context(name: str, root: Folder, workers: Workers, **stages: Any) -> Context:
    """Of the stage `name`, whose folder is below `root`."""
    settings: dict[str, Any] = {"config": {}, "identity": {}, "inputs": [], "fingerprint": "0123456789abcdef"}
    return Context(stage=name, out=root / name, stages=stages, workers=workers, **settings)
