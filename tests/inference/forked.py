"""What processes of the zygote's tests do."""

from __future__ import annotations

import json
import os
import socket
import sys
import time


def tell(channel: socket.socket) -> None:
    """Say how this process is, then wait for the end of the other one."""
    said = {"pid": os.getpid(), "cwd": os.getcwd(), "mark": os.environ.get("MARK"), "imported": "colorsys" in sys.modules}
    channel.sendall(json.dumps(said).encode())
    channel.recv(1)


def fail(channel: socket.socket) -> None:
    """End by an error."""
    raise RuntimeError("no")


def linger(channel: socket.socket) -> None:
    """Say the pid, and stay whatever the other end does."""
    channel.sendall(str(os.getpid()).encode())
    time.sleep(60)
