"""Packages that onnxruntime-genai's model builder needs beside it, in a folder of the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from raylm.core.errors import ConfigError

LOCK = ("ml-dtypes==0.6.0", "onnx==1.23.2", "onnx-ir==1.1.0")
OWN = "RAYLM_ONNX_PACKAGES"
"""A folder that has them, for machines that cannot install any."""
READY, INSTALL_S = ".ready", 600


def onnx_packages(say: Callable[[str], None] = print) -> str:
    """The folder for a builder's PYTHONPATH, made if it is not there; "" where this environment has the packages itself.

    Raises:
        ConfigError: they cannot be installed.
    """
    if own := os.environ.get(OWN):
        return own
    if importlib.util.find_spec("onnx_ir") is not None:
        return ""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    said = hashlib.sha256(" ".join((*LOCK, platform.python_version(), platform.machine())).encode()).hexdigest()[:12]
    folder = cache / "raylm" / f"onnx-{said}"
    if (folder / READY).is_file():
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # two that start at once do not write into one folder
    with open(folder.with_suffix(".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / READY).is_file():
            say(f"installing {', '.join(LOCK)} into {folder}, once")
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder)
            (folder / READY).touch()
    return str(folder)


def _install(folder: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    tool = (
        [uv, "pip", "install", "--quiet", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install", "--quiet"]
    )
    command = [*tool, "--no-deps", "--target", str(folder), *LOCK]
    next = f"mend it and start again, or name a folder that has them in {OWN}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise ConfigError("what the ONNX builder needs could not be installed", where=command[0], next=next) from cause
    if done.returncode:
        said = done.stderr.strip()[-1000:]
        raise ConfigError(f"what the ONNX builder needs could not be installed: {said}", where=command[0], next=next)
