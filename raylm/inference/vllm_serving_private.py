"""What raylm's endpoint uses of vLLM beyond its documented interface: numbers of the scheduler, processes of the engine core.

Its test names the version and fails when that changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
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


NOT_CONTINUED = ("structured_outputs", "stop", "logprobs", "prompt_logprobs", "bad_words", "thinking_token_budget")
"""Of a request: a form, a text or a count that looks at the tokens of the answer alone would begin anew behind those given."""


def may_continue(params: Any) -> bool:
    """Whether an answer with these SamplingParams, cut off somewhere, is the same answer when another engine goes on with it."""
    drawn = params.seed is not None and params.temperature > 0
    asked = any(getattr(params, name) not in (None, [], 0) for name in (*NOT_CONTINUED, "presence_penalty", "frequency_penalty"))
    return params.n == 1 and not asked and not drawn and params.repetition_detection is None


async def continued(
    generate: Callable[..., Any], tokenizer: Any, given: Sequence[int], prompt: Any, params: Any, *args: Any, **options: Any
) -> AsyncIterator[Any]:
    """What `generate` of an AsyncLLM yields for a stream whose first tokens are `given`: these one by one, with their text, then
    what the engine makes behind them. Counts of prompt and answer are those of the whole answer.

    Raises:
        ValueError: such an answer cannot be continued.
    """
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    delta = params.output_kind == RequestOutputKind.DELTA
    if not (isinstance(prompt, dict) and prompt.get("type") == "token" and delta and may_continue(params)):
        raise ValueError("this answer cannot be continued by another engine")
    own, name = list(prompt["prompt_token_ids"]), str(args[0] if args else options["request_id"])
    left = None if params.max_tokens is None else params.max_tokens - len(given)
    asked = SimpleNamespace(request_id=name, sampling_params=params, prompt_token_ids=own, prompt_embeds=None)
    text: Any = IncrementalDetokenizer.from_new_request(tokenizer, asked)  # type: ignore[arg-type]
    for at, token in enumerate(given):
        text.update([token], False)
        over = left is not None and left <= 0 and at + 1 == len(given)
        said = text.get_next_output_text(over, True)
        one = CompletionOutput(0, said, [token], None, None, finish_reason="length" if over else None)
        yield RequestOutput(name, None, own, None, [one], over)
    if left is not None and left <= 0:
        return
    further = params.clone()
    further.max_tokens, further.min_tokens = left, max(0, params.min_tokens - len(given))
    kept = {key: value for key, value in prompt.items() if key not in ("prompt", "prompt_token_offsets")}
    made = generate({**kept, "prompt_token_ids": [*own, *given]}, further, *args, **options)
    async with contextlib.aclosing(made):
        async for output in made:
            output.prompt_token_ids = own
            yield output
