"""Takes whether there is a GPU, leaves a process environment in which vLLM starts fast, silent and without telemetry."""

from __future__ import annotations

import os
from typing import Any

# GB of key-value cache on the CPU backend, which would otherwise take 4 GB or half the memory
CPU_KV_CACHE_GB = "1"


def set_environment(gpu: bool) -> None:
    """Set what vLLM reads at import; call it before `import vllm`, and before torch where that is possible.

    Values that only tune (cache size, log level) give way to what the user has set.
    """
    os.environ.update(
        {
            # the engine core and its one worker share a process: one import of vLLM less (10 s) and no pickling of weights
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if gpu:
        return
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_KV_CACHE_GB)
    # binding cores assumes that the machine is ours alone; Ray workers share it
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # otherwise the first sampling with logprobs compiles C++ for 20 s
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def engine_options(gpu: bool, memory_share: float) -> dict[str, Any]:
    """Arguments that every engine of raylm gets.

    Args:
        memory_share: part of the GPU's memory that weights and cache may take; the CPU backend has its own limit.
    """
    options: dict[str, Any] = {
        "enforce_eager": not gpu,
        "trust_remote_code": False,
    }
    if gpu:
        options["gpu_memory_utilization"] = memory_share
    return options
