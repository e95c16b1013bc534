"""Ready means: it has answered once, with numbers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

from raylm.core.errors import StageError
from raylm.serve.api.tasks import TEXT, VECTORS

PROBE_TOKEN = 1


async def probe(engine: Any, task: str) -> None:
    """Let an engine answer one token, or one vector or score. Raises StageError where that is nothing finite."""
    prompt: dict[str, Any] = {"prompt_token_ids": [PROBE_TOKEN]}
    if task == TEXT:
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
        last = await _last(engine.generate(prompt, asked, "raylm-ready"))
        if last is None or len(last.outputs[0].token_ids) != 1:
            raise StageError("the engine started, and generates no token")
        return
    from vllm import PoolingParams

    pooled = PoolingParams(task="embed" if task == VECTORS else "classify")
    last = await _last(engine.encode(prompt, pooled, "raylm-ready"))
    numbers = last.outputs.data.flatten().tolist() if last is not None else [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise StageError(f"the engine started, and what it says of a token is no finite number: {numbers[:3]}")


async def _last(outputs: AsyncIterator[Any]) -> Any:
    """The last of what an engine says; None where it says nothing."""
    last = None
    async for output in outputs:
        last = output
    return last
