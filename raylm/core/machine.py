"""What this machine has and its CPU can do, as Linux says it."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def instruction_set() -> str:
    """A name for all that this machine's CPU can do: code compiled for it may be used where the name is the same."""
    return hashlib.blake2b(" ".join([platform.machine(), *sorted(cpu_flags())]).encode(), digest_size=6).hexdigest()


def cpu_flags() -> set[str]:
    """Instruction-set extensions of the CPU; none where there is no /proc/cpuinfo."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").partition(":")[2].split())


def free_memory() -> int:
    """Bytes that programs can have, what the page cache would give back among them."""
    file = Path("/proc/meminfo")
    for line in file.read_text().splitlines() if file.is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
