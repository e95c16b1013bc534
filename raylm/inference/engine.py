"""The one way to build a vLLM engine: for generators of rl and evaluate, and for replicas of the endpoint."""

from __future__ import annotations

import os
from typing import Any

CPU_KV_CACHE_GB = "1"
"""GB of key-value cache on the CPU backend, which would otherwise take 4 GB or half the memory."""

CPU_REQUESTS = 256
"""Requests that an engine on a CPU works on at once: vLLM's default for batches, which it takes for a server to be half."""


def set_environment(gpu: bool) -> None:
    """Set what vLLM reads at import; call it before `import vllm`, and before torch where that is possible.

    Values that only tune (cache size, log level) give way to what the user has set.
    """
    os.environ.update(
        {
            # one worker lies in the process of its engine core: one import of vLLM less (8 s of CPU time)
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            # calls of tools that a request demands are held to their JSON schema; vLLM's structural tags are a form of grammar
            # that llguidance, which compiles ours, does not read
            "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
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


def set_cpu_options(options: dict[str, Any]) -> None:
    """Let what an engine on a CPU is told go before what its environment says, in this process and in one that it starts."""
    if "kv_cache_memory_bytes" in options:
        # vLLM would put this in place of it
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    if not options["enforce_eager"]:
        os.environ.pop("TORCHDYNAMO_DISABLE", None)


def build_engine(
    model: str,
    *,
    dtype: str,
    max_len: int | None,
    gpu: bool,
    memory_share: float,
    own_process: bool,
    speculation: Any = None,
    forks: bool = False,
    stat_loggers: list[Any] | None = None,
    **options: Any,
) -> Any:
    """A ready AsyncLLM. Blocks while weights load; call it in a thread where an event loop must go on.

    Args:
        model: folder of the checkpoint, or a hub name.
        dtype: a number format that this machine's kernels take, see `engine_dtype`.
        max_len: most tokens of prompt and completion together; None for what the checkpoint was made for.
        memory_share: part of the GPU's memory that weights and cache may take; the CPU backend has its own limit.
        own_process: run the engine core in a process beside this one, whose death this one survives. Without it the core is a
            thread here: 8 s of CPU time and 0.4 GB less, and Ray knows of its death by that of this process.
        speculation: a card of `AnySpeculation` whose references are addresses.
        forks: fork that process, where vLLM would start another and import everything anew; this one must have no threads of
            computation yet.
        stat_loggers: what is told of each step, see `stat_logger` and `counting`.
        options: further arguments of vLLM's AsyncEngineArgs. `EngineSettings.options` has some, and the speculation.

    Raises:
        ConfigError: the draft model has other tokens than `model`.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from raylm.inference.vllm_start_private import engine_in_thread, search_own_kernels

    options = {"enforce_eager": not gpu, **options, "dtype": dtype, "max_model_len": max_len, "trust_remote_code": False}
    if gpu:
        options["gpu_memory_utilization"] = memory_share
    else:
        # a prompt whose tokens are split over two steps ends the engine when its request has a seed: vLLM then winds back the
        # generator of random numbers, which those of CPUs cannot do (`CPU Generator does not use offset`)
        options = {"max_num_seqs": CPU_REQUESTS, **options, "enable_chunked_prefill": False}
        set_cpu_options(options)
        search_own_kernels()
    if speculation is not None:
        options["speculative_config"] = speculation.speculative_config(model)
    arguments = AsyncEngineArgs(model=model, **options)
    if not own_process:
        return engine_in_thread(arguments, stat_loggers)
    config = arguments.create_engine_config()
    if forks:
        # its CPU backend has just said otherwise, whatever was there before
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    return AsyncLLM.from_vllm_config(config, stat_loggers=stat_loggers)
