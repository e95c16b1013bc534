"""Names the allocator of ranks that compute on CPUs: jemalloc, which comes with Ray, in place of the C library's."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# large blocks lie with all others, and none goes back to the system: in the next step it would have to be cleared again, a fifth
# of a step's time
CONF = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1"


def allocator(use_gpu: bool) -> dict[str, str]:
    """Environment of a rank's process; nothing on GPUs, on other platforms, and where an allocator is preloaded already.

    torch asks for aligned blocks, and glibc gives none of those that were freed for the next one of the same size: at its peak
    a step held 1.6 times what its tensors take.
    """
    import ray

    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    fits = platform.system() == "Linux" and platform.machine() == "x86_64"
    if use_gpu or not fits or "LD_PRELOAD" in os.environ or not library.exists():
        return {}
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": CONF}
