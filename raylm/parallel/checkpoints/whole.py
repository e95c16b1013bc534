"""Gathers the whole tensors of a sharded model one by one; no rank holds more than one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from raylm.model.linear_4bit import layers_of


def whole_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole tensor of each parameter and kept buffer, in the model's order. All ranks that share it must iterate.

    Of a matrix that is stored in 4 bits it is what they stand for, in float32.

    Tensors may be the model's own: whoever keeps one copies it. A tensor that has two names (tied) comes twice.
    """
    stored = layers_of(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        found = whole(tensor)
        yield name.replace("_orig_mod.", ""), stored[name].matrix(found) if name in stored else found


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
