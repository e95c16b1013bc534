"""The packages of npm that exports are proved with: in the user's cache, pinned, without any of their install scripts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from raylm.core.errors import ConfigError

PINNED = {"node-llama-cpp": "3.21.1", "@node-llama-cpp/linux-x64": "3.21.1", "@wllama/wllama": "3.13.0"}
"""Of node-llama-cpp the build for CPUs alone: those for GPUs are 600 MB."""
COMMAND = "raylm convert --install-consumers"
INSTALL_S = 900


def folder() -> Path:
    """Where they lie, whether they are there or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "raylm" / "consumers"


def version_of(package: str) -> str:
    """What is installed, "" where it is not."""
    file = folder() / "node_modules" / package / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.is_file() else ""


def missing(*packages: str) -> str:
    """Why a consumer cannot be run, "" where nothing is missing."""
    if shutil.which("node") is None:
        return "there is no node on this machine"
    absent = [package for package in packages if version_of(package) != PINNED[package]]
    return f"{', '.join(absent)} not installed: {COMMAND}" if absent else ""


def install(say: Callable[[str], None] = print) -> Path:
    """Install what is not there; returns the folder.

    Raises:
        ConfigError: there is no npm, or it cannot.
    """
    at = folder()
    at.mkdir(parents=True, exist_ok=True)
    # two that start at once do not install into one folder
    with (at / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        wanted = [f"{name}@{version}" for name, version in PINNED.items() if version_of(name) != version]
        if not wanted:
            say(f"all there: {at}")
            return at
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError("there is no npm on this machine", next="install Node.js 20 or newer, then again")
        say(f"installing {', '.join(wanted)} into {at}")
        command = [npm, "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--prefix", str(at), *wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False, cwd=at)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"npm was not ready within {INSTALL_S} s", next=COMMAND) from None
        if done.returncode:
            raise ConfigError(f"npm could not install them:\n{done.stderr.strip()[-1500:]}", next=f"mend it, then {COMMAND}")
    return at


if __name__ == "__main__":
    install()
