"""Measures one candidate: a fresh process with one engine, which answers all prompts greedily, several times over.

python -m raylm.serve.tune.measure ASKED RESULT     (JSON files)
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from raylm.core.errors import RaylmError


def main(asked_at: str, result_at: str) -> int:
    """Write what was measured, or why it could not be."""
    asked = json.loads(Path(asked_at).read_text())
    try:
        found = asyncio.run(measured(asked))
    except (RaylmError, RuntimeError, ValueError, NotImplementedError, OSError) as cause:
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        found = {"failed": f"{type(cause).__name__}: {' '.join(lines)[:400]}"}
    Path(result_at).write_text(json.dumps(found))
    sys.stdout.flush()
    # an engine's thread may not come to its end
    os._exit(0)


async def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """The figures of one candidate: tokens/s of each pass, seconds to first tokens, memory, tokens of all answers."""
    from raylm.inference.config import EngineSettings
    from raylm.inference.engine import build_engine, set_environment
    from raylm.inference.vllm_private import counting

    gpu = asked["gpus"] > 0
    set_environment(gpu)
    counts, began = Counter[str](), time.monotonic()
    before = _gpu_bytes() if gpu else 0
    engine = await asyncio.to_thread(
        build_engine,
        asked["model"],
        dtype=asked["dtype"],
        max_len=asked["max_len"],
        gpu=gpu,
        memory_share=asked["memory_share"],
        own_process=gpu,
        stat_loggers=[counting(counts)],
        generation_config="vllm",
        skip_tokenizer_init=True,
        **EngineSettings(**asked["engine"]).options,
    )
    start_s, passes, first_s = time.monotonic() - began, [], []
    answers: list[list[int]] = []
    for number in range(asked["repeats"] + 1):
        # a prompt that was asked in the pass before is no longer known: only what the prompts share is
        await _forget_prefixes(engine)
        warm = number == 0
        prompts = asked["prompts"][: asked["concurrency"]] if warm else asked["prompts"]
        since = time.monotonic()
        answered = await _pass(engine, prompts, asked, number)
        seconds = time.monotonic() - since
        if warm:
            counts.clear()
            continue
        passes.append(sum(len(tokens) for tokens, _ in answered) / seconds)
        first_s += [first for _, first in answered]
        repeated = [tokens for tokens, _ in answered]
        steady = not answers or repeated == answers
        answers = answers or repeated
        if not steady:
            counts["unsteady"] += 1
    ordered = sorted(first_s)
    return {
        "tokens_per_s": [round(one, 2) for one in passes],
        "median": round(median(passes), 2),
        "ttft_p50_s": round(ordered[len(ordered) // 2], 4),
        "ttft_p95_s": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4),
        "start_s": round(start_s, 1),
        "memory_gb": round(
            (_gpu_bytes() - before if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30, 2
        ),
        "drafted": counts["drafted"],
        "accepted": counts["accepted"],
        "repeats_differ": counts["unsteady"],
        "answers": answers,
    }


async def _pass(engine: Any, prompts: list[list[int]], asked: dict[str, Any], number: int) -> list[tuple[list[int], float]]:
    """(answer's tokens, seconds to its first one) of each prompt, so many of them at once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    room = asyncio.Semaphore(asked["concurrency"])
    params = SamplingParams(
        temperature=0,
        max_tokens=asked["tokens"],
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stop_token_ids=asked["ends"],
    )

    async def one(at: int, prompt: list[int]) -> tuple[list[int], float]:
        async with room:
            began, first, tokens = time.monotonic(), 0.0, []
            async for output in engine.generate({"prompt_token_ids": prompt}, params, f"{number}-{at}"):
                first = first or time.monotonic() - began
                tokens += output.outputs[0].token_ids
            return tokens, first

    return list(await asyncio.gather(*(one(at, prompt) for at, prompt in enumerate(prompts))))


async def _forget_prefixes(engine: Any) -> None:
    """Empty the prefix cache. Raises RuntimeError where vLLM keeps it: the next pass would measure what is known already."""
    for _ in range(20):
        if await engine.reset_prefix_cache():
            return
        # blocks of the last answers are given back with the next step
        await asyncio.sleep(0.1)
    raise RuntimeError("vLLM kept its prefix cache between two passes")


def _gpu_bytes() -> int:
    """Bytes of this process's first GPU that are taken, by whomever."""
    import torch

    free, whole = torch.cuda.mem_get_info()
    return whole - free


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
