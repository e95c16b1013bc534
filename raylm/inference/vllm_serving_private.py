"""What raylm's endpoint uses of vLLM beyond its documented interface: numbers of the scheduler, processes of the engine core.

Its test names the version and fails when that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Step(NamedTuple):
    """What one step of an engine says of itself."""

    running: int
    waiting: int
    kv_use: float
    new_tokens: int
    first_tokens_s: tuple[float, ...]
    """Seconds to the first token, of requests that got theirs in this step."""
    preempted: int
    read_tokens: int = 0
    """Of prompts, less those that were cached."""


def stat_logger(heard: Callable[[Step], None]) -> Any:
    """A logger for `AsyncLLM.from_engine_args(stat_loggers=...)` that tells `heard` of every step."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Logger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
            if scheduler_stats is None:
                return
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            made = iteration_stats
            heard(
                Step(
                    running=scheduler_stats.num_running_reqs,
                    waiting=waiting,
                    kv_use=scheduler_stats.kv_cache_usage,
                    new_tokens=made.num_generation_tokens if made else 0,
                    first_tokens_s=tuple(made.time_to_first_tokens_iter) if made else (),
                    preempted=made.num_preempted_reqs if made else 0,
                    read_tokens=made.prompt_token_stats.computed if made else 0,
                )
            )

        def log_engine_initialized(self) -> None:
            pass

    return Logger


def num_under_way(engine: Any) -> int:
    """Requests that an AsyncLLM has been given and that have not ended."""
    return engine.output_processor.get_num_unfinished_requests()


def num_queued_tokens(engine: Any) -> int:
    """Tokens of the prompts that have not been read to their end."""
    return engine.output_processor.get_num_queued_tokens()


def cores(engine: Any) -> list[tuple[int, int]]:
    """Processes of an AsyncLLM's engine cores: (pid, a file that can be read when it has ended)."""
    found = engine.engine_core.resources.engine_manager
    return [(process.pid, process.sentinel) for process in found.processes] if found else []
