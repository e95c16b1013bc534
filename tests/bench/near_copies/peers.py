"""Takes a peer's name and packages, leaves a Python that has them, and what it did in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

# a peer that stands still must not hold the benchmark
_DEADLINE_S = 4 * 3600


def python_of(name: str, *packages: str) -> Path:
    """The peer's Python, in an environment under RAYLM_PEERS (or ~/.cache/raylm/peers) that is made when it is not there."""
    home = Path(os.environ.get("RAYLM_PEERS", Path.home() / ".cache" / "raylm" / "peers")) / name
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def timed(command: list[str | Path], **extra: str) -> tuple[float, str]:
    """Wall seconds of a process, and what it printed. Raises RuntimeError with its last lines when it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"} | extra,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return time.perf_counter() - started, done.stdout + done.stderr
