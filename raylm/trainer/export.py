"""The end of a run: the engine's weights, gathered one tensor at a time, as a checkpoint in Hugging Face's layout."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from raylm.core.storage import Folder
from raylm.model.checkpoint import write_checkpoint

if TYPE_CHECKING:
    import torch

    from raylm.parallel.engine import Engine


def write_streamed(engine: Engine, out: Folder, config: Any, tokenizer: str, adapter: Any = None, base: str = "") -> None:
    """Write the engine's weights as a checkpoint, see `write_checkpoint`. Rank 0 writes, every rank must call.

    Args:
        adapter: what stands beside the weights; it is folded in, and written apart to `adapter/`.
        base: address of the weights that training began with: what of it is kept, see `write_checkpoint`, and what the adapter
            stands beside.
    """
    stream = engine.stream()
    if engine.rank == 0 and not adapter:
        write_checkpoint(out, config, stream, tokenizer, start=base)
    elif engine.rank == 0 and adapter:
        adapters: dict[str, torch.Tensor] = {}
        merged = adapter.merge(engine.bare, stream, adapters)
        write_checkpoint(
            out, config, merged, tokenizer, lambda at: adapter.save(engine.bare, adapters, base, at / "adapter"), start=base
        )
    # on other ranks, and behind what rank 0 took: all ranks must come to the end
    deque(stream, maxlen=0)
