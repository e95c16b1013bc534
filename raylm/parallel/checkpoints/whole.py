"""Takes a model cut over ranks, leaves its whole tensors one after the other: nobody holds more than one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from raylm.core.storage import Folder
from raylm.model.checkpoint import write_checkpoint

if TYPE_CHECKING:
    from raylm.model.adapter import Lora
    from raylm.parallel.engine import Engine


def whole_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole tensor of each parameter and kept buffer, in the model's order. All ranks that share it must iterate.

    Tensors may be the model's own: whoever keeps one copies it. A tensor that has two names (tied) comes twice.
    """
    for name, tensor in model.state_dict(keep_vars=True).items():
        yield name.replace("_orig_mod.", ""), whole(tensor)


def write_streamed(engine: Engine, out: Folder, config: Any, tokenizer: str, adapter: Lora | None = None, base: str = "") -> None:
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
        merged = adapter.merge(stream, adapters)
        write_checkpoint(
            out, config, merged, tokenizer, lambda at: adapter.save(engine.bare, adapters, base, at / "adapter"), start=base
        )
    # on other ranks, and behind what rank 0 took: all ranks must come to the end
    deque(stream, maxlen=0)


def whole(tensor: Any) -> torch.Tensor:
    """All of a tensor that may be cut over ranks."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor
    mesh, local = tensor.device_mesh, tensor.to_local()
    if local.device.type != mesh.device_type:
        # offloaded to the host: ranks meet on their devices
        local = local.to(mesh.device_type)
        tensor = DTensor.from_local(local, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
    return tensor.full_tensor()
