"""The virtual environment of a page: made once, in the user's cache, from a locked list.

Gradio 6.31 wants pillow below 13, the environment that trains and serves has 13: a page gets its own, and its process has the
locked packages and nothing of that one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from raylm.core.errors import ConfigError

PAGES = ("gradio", "streamlit")
OWN_PYTHON = "RAYLM_DEMO_PYTHON"
"""A Python that has the packages, for machines that cannot install any."""
READY = ".ready"
INSTALL_S = 900


def lock_of(page: str) -> Path:
    """The locked packages of a page: name==version, one a line."""
    return Path(__file__).parent / "locks" / f"{page}.txt"


def folder_of(page: str) -> Path:
    """Where the page's environment lies, whether it is there or not; another list or another Python is another folder."""
    said = lock_of(page).read_text() + platform.python_version() + sys.base_prefix
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "raylm" / f"demo-{page}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def ready(page: str) -> Path | None:
    """The Python of a finished environment; None where it was never made."""
    if own := os.environ.get(OWN_PYTHON):
        return Path(own)
    folder = folder_of(page)
    return folder / "bin" / "python" if (folder / READY).is_file() else None


def make(page: str, say: Callable[[str], None] = print) -> Path:
    """The Python of the page's environment, which is made if it is not there.

    Raises:
        ConfigError: the packages cannot be installed.
    """
    if (found := ready(page)) is not None:
        return found
    folder = folder_of(page)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # two that start at once do not build into one folder
    with open(folder.with_suffix(".lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if (found := ready(page)) is None:
            say(f"installing {page} and what it needs into {folder}, once")
            shutil.rmtree(folder, ignore_errors=True)
            for command in _commands(page, folder):
                _run(command, page)
            (folder / READY).touch()
    return folder / "bin" / "python"


def _commands(page: str, folder: Path) -> list[list[str]]:
    """uv where there is one: it links what other environments have already."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    lock, python = str(lock_of(page)), str(folder / "bin" / "python")
    if uv:
        make = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)]
        return [make, [uv, "pip", "sync", "--quiet", "--python", python, lock]]
    make = [sys.executable, "-m", "venv", str(folder)]
    return [make, [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", lock]]


def _run(command: list[str], page: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    next = f"mend it and start again, or name a Python that has {page} and openai in {OWN_PYTHON}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False, env=kept)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise ConfigError(f"{page} could not be installed", where=command[0], next=next) from cause
    if done.returncode:
        raise ConfigError(f"{page} could not be installed:\n{done.stderr.strip()[-1500:]}", where=command[0], next=next)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(make(wanted))
