"""The sandbox in which code of completions is run: a fresh Python that confines itself first (`jail.py`)."""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from raylm.core.errors import ConfigError

JAIL = Path(__file__).with_name("jail.py")
MORE_S = 5.0
"""Seconds beyond the program's own that a Python may take to start on a busy machine."""
TAIL = 2000
"""Letters of the error output that are read."""


class Limits(NamedTuple):
    """What a program may use."""

    timeout_s: float
    memory_bytes: int
    output_bytes: int
    landlock: bool = True
    """Keep it from reading files; without it, it may read what this process may."""


class Ran(NamedTuple):
    """What became of a program."""

    ended: str
    """"" where it came to its end, else how it ended: time_out, exit 1, SIGSEGV, ..."""
    output: str
    error: str
    """Last line of its error output."""
    failed: list[str] | None
    """Of each check: "" or the exception; None where the checks were not reached."""


def run(source: str, limits: Limits, stdin: str = "", checks: list[str] | None = None) -> Ran:
    """Run a Python program.

    Args:
        checks: statements that are executed after it and with its names, each of which passes unless it raises. They run in a
            process of their own, which the program cannot reach (`judge.py`).

    Raises:
        ConfigError: this machine cannot confine it.
    """
    word = secrets.token_hex(16)
    task = {
        "source": source,
        "judged": bool(checks),
        # of a program that is judged it is told apart
        "word": "" if checks else word,
        "readable": [sys.prefix, sys.base_prefix, *(each for each in sys.path if each.endswith("site-packages"))],
        "memory_bytes": limits.memory_bytes,
        "cpu_s": math.ceil(limits.timeout_s),
        "output_bytes": limits.output_bytes,
        "landlock": limits.landlock,
    }
    with (
        _file(json.dumps(task)) as asked,
        _file(json.dumps({"checks": checks, "word": word})) as judging,
        _file(stdin) as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as error,
        tempfile.TemporaryFile() as verdict,
    ):
        ended = _ended(_start(asked, judging, given, output, error, verdict), limits.timeout_s + MORE_S)
        told = _read(verdict, TAIL * 100)
        found = _verdict(told)
        honest = found.get("word") == word
        if honest and "refused" in found:
            raise ConfigError(
                f"code cannot be run safely here: {found['refused']}",
                next="it takes Linux on x86-64, see raylm/data/programs/jail.py",
            )
        last = _read(error, TAIL).strip().splitlines()
        ended = ended or (str(found.get("ended", "")) if honest else "")
        return Ran(ended, _read(output, limits.output_bytes), last[-1] if last else "", found.get("failed") if honest else None)


def _start(
    asked: IO[bytes], judging: IO[bytes], given: IO[bytes], output: IO[bytes], error: IO[bytes], verdict: IO[bytes]
) -> Any:
    """The fresh Python; descriptor 3 says what to run, 5 by what it is judged, 4 is where it says what came of that."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    code = (
        f"import os, runpy; a, v, j = map(os.dup, ({asked.fileno()}, {verdict.fileno()}, {judging.fileno()})); "
        "os.dup2(a, 64); os.dup2(v, 65); os.dup2(j, 66); os.dup2(64, 3); os.dup2(65, 4); os.dup2(66, 5); "
        "os.closerange(6, 1 << 20); "
        f"runpy.run_path({str(JAIL)!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        # isolated from the user's settings, without writing bytecode
        [sys.executable, "-I", "-B", "-X", "utf8", "-c", code],
        stdin=given,
        stdout=output,
        stderr=error,
        env=environment,
        cwd="/",
        pass_fds=[asked.fileno(), judging.fileno(), verdict.fileno()],
    )


def _ended(process: Any, timeout_s: float) -> str:
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "time_out"
    if code < 0:
        import signal

        name = signal.Signals(-code).name
        return "time_out" if name in ("SIGXCPU", "SIGKILL") else name
    return f"exit {code}" if code else ""


def _verdict(told: str) -> dict[str, Any]:
    try:
        found = json.loads(told) if told else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(text: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115, closed by who asked
    file.write(text.encode("utf-8", "replace"))
    file.flush()
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file


def _read(file: IO[bytes], most: int) -> str:
    """The last `most` bytes."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - most, 0))
    return file.read(most).decode("utf-8", "replace")
