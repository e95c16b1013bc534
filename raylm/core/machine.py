"""What the CPU of this machine can do, as Linux says it."""

from __future__ import annotations

import hashlib
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
