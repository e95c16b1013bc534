"""Ready means: it has answered once, with numbers."""

from __future__ import annotations

import math
from typing import Any

from raylm.core.errors import StageError

PROBE_TOKEN = 1


async def probe(engine: Any, task: str) -> None:
    """Let an engine answer one token, or one vector or score. Raises StageError where that is nothing finite."""
    prompt = {"prompt_token_ids": [PROBE_TOKEN]}
    if task == "generate":
        from vllm import SamplingParams

        asked, found = SamplingParams(max_tokens=1, temperature=0, detokenize=False, prompt_logprobs=None), None
        async for found in engine.generate(prompt, asked, "raylm-ready"):
            pass
        if found is None or len(found.outputs[0].token_ids) != 1:
            raise StageError("the engine started, and generates no token")
        return
    from vllm import PoolingParams

    tasks, found = await engine.get_supported_tasks(), None
    async for found in engine.encode(prompt, PoolingParams(task="embed" if "embed" in tasks else "classify"), "raylm-ready"):
        pass
    numbers = found.outputs.data.flatten().tolist() if found is not None else [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise StageError(f"the engine started, and its {'vector' if task == 'embed' else 'score'} is no finite number")
