"""Everything that only a GPU can prove, in eight minutes on one: torch and transformers are enough, no Ray, no vLLM.

    parent    starts a child, gives each check its time, starts another child where one hangs, dies or broke the device
    child     imports torch once, runs check after check, prints a verdict per line

The last line is one JSON object: a verdict and figures for each check. `--smoke` runs small sizes, on CPUs too.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.gpu.check import Check, Skipped

MODULES = ("device", "engine", "attention", "cross_entropy", "numbers", "optimizers", "memory", "adapters", "speed", "flex")
"""In this order: what comes last is left out first where time runs short."""
BUDGET_S = 480.0
START_S = 90.0
"""Seconds for a child to import torch and transformers."""
ROOM = "tests.bench.gpu."
MARK = "\x1e"
"""Begins the lines of a child that are for the parent; libraries print between them."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check")
    parser.add_argument("--smoke", action="store_true", help="small sizes; without a GPU what CPUs can do")
    parser.add_argument("--budget", type=float, default=float(os.environ.get("RAYLM_GPU_BUDGET", BUDGET_S)), help="seconds")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="checks whose name holds TEXT")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    smoke = arguments.smoke or os.environ.get("RAYLM_GPU_SMOKE") == "1"
    modules = [f"{ROOM}{name}" for name in MODULES]
    if arguments.child is not None:
        child(arguments.child, smoke)
        return 0
    found = run(modules, budget_s=arguments.budget, smoke=smoke, only=arguments.only)
    print(json.dumps(found, default=str))
    return 0 if found["ok"] else 1


def run(modules: list[str], *, budget_s: float = BUDGET_S, smoke: bool = False, only: list[str] | None = None) -> dict[str, Any]:
    """All checks of `modules`: {"ok", "counts", "seconds", "checks": {name: {"verdict", "seconds", figures}}}.

    Verdicts: ok, failed (with the error), skipped (with what is missing here), stopped (past its time), died (with the end of
    the child's output), not run (no time was left).
    """
    started, checks = time.monotonic(), _checks_of(modules)
    wanted = [name for name in checks if not only or any(part in name for part in only)]
    found: dict[str, dict[str, Any]] = {}
    while left := [name for name in wanted if name not in found]:
        if time.monotonic() - started > budget_s:
            found |= {name: {"verdict": "not run", "why": f"{budget_s:g} s were over"} for name in left}
            break
        before = len(found)
        for name, verdict in _one_child(left, checks, smoke, started + budget_s):
            found[name] = verdict
            print(f"{name.removeprefix(ROOM)}: {_in_short(verdict)}", flush=True)
        if len(found) == before:
            found[left[0]] = {"verdict": "died", "why": "its process ended before it began"}
    verdicts = [verdict["verdict"] for verdict in found.values()]
    return {
        "name": "gpu_check",
        "smoke": smoke,
        "ok": not {"failed", "stopped", "died"} & set(verdicts),
        "counts": {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
        "seconds": round(time.monotonic() - started, 1),
        "checks": {name.removeprefix(ROOM): verdict for name, verdict in found.items()},
    }


def child(names: list[str], smoke: bool) -> None:
    """Run checks one after the other; ends early where the device does not answer any more."""
    checks = _checks_of(dict.fromkeys(name.partition("/")[0] for name in names))
    for name in names:
        _tell({"begin": name})
        started = time.perf_counter()
        try:
            figures = checks[name].run(smoke)
            verdict = {"verdict": "ok" if figures.pop("ok", True) else "failed"}
        except Skipped as reason:
            verdict, figures = {"verdict": "skipped", "why": str(reason)}, {}
        except Exception as error:  # whatever it is, the other checks are still worth their time
            verdict, figures = {"verdict": "failed", "why": f"{type(error).__name__}: {error}"[-1500:]}, {}
        seconds = round(time.perf_counter() - started, 2)
        _tell({"end": name, "found": {**verdict, "seconds": seconds, **_rounded(figures)}})
        if verdict["verdict"] == "failed" and _is_broken():
            os._exit(3)


def _is_broken() -> bool:
    """Whether this process has lost its GPU: after some errors every later call fails."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
        torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


def _checks_of(modules: Any) -> dict[str, Check]:
    return {f"{module}/{name}": check for module in modules for name, check in import_module(module).CHECKS.items()}


def _one_child(names: list[str], checks: dict[str, Check], smoke: bool, until: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Verdicts of a child as they come; the last one is made here where the child hangs or dies."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(root))))
    command = [sys.executable, "-m", "tests.bench.gpu_check", *(["--smoke"] if smoke else []), "--child", *names]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", cwd=root, start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True).start()
        running, printed, began = "", "", time.monotonic()
        try:
            while True:
                limit = min(checks[running].limit_s if running else START_S, max(until - began, 1.0))
                try:
                    line = lines.get(timeout=max(0.0, began + limit - time.monotonic()))
                except queue.Empty:
                    yield running or names[0], {"verdict": "stopped", "why": f"after {limit:.0f} s"}
                    return
                if line is None:
                    if running:
                        errors.seek(0)
                        why = f"exit {process.wait()}: {(printed + errors.read())[-1500:]}"
                        yield running, {"verdict": "died", "why": why}
                    return
                if not line.startswith(MARK):
                    printed = (printed + line)[-1500:]
                    continue
                event = json.loads(line[1:])
                if "begin" in event:
                    if time.monotonic() > until:
                        return
                    running, began = event["begin"], time.monotonic()
                else:
                    running, began = "", time.monotonic()
                    yield event["end"], event["found"]
        finally:
            _end(process)


def _pass_on(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End the child and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _rounded(value: Any) -> Any:
    """Numbers to four digits: a verdict is read by people."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _tell(event: dict[str, Any]) -> None:
    print(f"\n{MARK}{json.dumps(event, default=str)}", flush=True)


def _in_short(verdict: dict[str, Any]) -> str:
    figures = [
        f"{key} {value}" for key, value in verdict.items() if key not in ("verdict", "why") and not isinstance(value, dict)
    ]
    why = str(verdict.get("why", "")).strip().splitlines()
    return f"{verdict['verdict']}{': ' + why[-1][:200] if why else ''}  {', '.join(figures)[:300]}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
