"""What raylm uses of vLLM beyond its documented interface to load LoRA adapters while an engine serves. Its test names the
version and fails when that changes."""

from __future__ import annotations

import asyncio
from typing import Any

from raylm.core.errors import ConfigError


async def load_adapter(app: Any, name: str, number: int, path: str) -> None:
    """Load the LoRA adapter in the folder `path` into the engine behind `app`, whose requests may name it from now on.

    Args:
        number: of this loading, never used before. Keys and values in the cache are known by name and path: other weights
            under the same name need another path.

    Raises:
        ConfigError: the engine cannot take it.
    """
    from vllm.lora.request import LoRARequest

    serving = app.state.openai_serving_models
    request = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
    # what the engine core says of a call that failed is a bare Exception
    (failed,) = await asyncio.gather(serving.engine_client.add_lora(request), return_exceptions=True)
    if isinstance(failed, BaseException):
        if serving.engine_client.errored or not isinstance(failed, Exception):
            raise failed
        raise ConfigError(f"the engine cannot take this adapter: {failed}") from failed
    serving.lora_requests[name] = request


async def unload_adapter(app: Any, name: str) -> None:
    """Let no request name the adapter any more, and free its place. What is under way with it goes on."""
    serving = app.state.openai_serving_models
    request = serving.lora_requests.pop(name)
    await serving.engine_client.remove_lora(request.lora_int_id)
