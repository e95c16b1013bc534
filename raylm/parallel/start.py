"""Model initialization over ranks: rank 0 builds or loads the model, every rank gets its shard, no other rank holds the whole.

rank 0      make() -> weights ------------------ one block of rows after the other ----+
others             -> skeleton (meta device) -> layout shards it -> weight_loader: own shards <-+
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from raylm.core.errors import RaylmError

# bytes of one broadcast: what every rank holds of the whole model at a time
BLOCK_BYTES = 64 << 20


class Start(NamedTuple):
    """A model before its first step."""

    model: Any
    """The model; with `weight_loader` its parameters are on the meta device."""
    weight_loader: WeightLoader | None
    """Allocates and fills them. None on a single rank, whose model is whole."""


class WeightLoader:
    """Allocates parameters that are on the meta device and fills them with their part of rank 0's weights.

    Args:
        weights: on rank 0 each parameter under all its names (tied ones have several), None on others.
        device: where broadcasts are received.
    """

    def __init__(self, weights: dict[tuple[str, ...], torch.Tensor] | None, device: Any) -> None:
        self.weights, self.device = weights, torch.device(device)

    def close(self) -> None:
        """Drop the weights: every model is filled."""
        self.weights = None

    def __call__(self, model: torch.nn.Module, kept: Any = None) -> None:
        """Every rank must call.

        Args:
            model: a skeleton or a part of one (a pipeline's stage), as it is or sharded into DTensors.
            kept: device of the parameters, `device` when None.
        """
        sent: list[Any] = [self.weights and [(names, tuple(p.shape), p.dtype) for names, p in self.weights.items()]]
        dist.broadcast_object_list(sent, src=0)
        own = _with_memory(model, self.device if kept is None else kept)
        for names, shape, dtype in sent[0]:
            # tied parameters are one under several names; a pipeline's last stage may have the second alone
            mine = {id(own[name]): own.pop(name) for name in names if name in own}
            whole = self.weights[names].detach() if self.weights else None
            for start, stop in _blocks(shape, dtype):
                rows = torch.empty((stop - start, *shape[1:]), dtype=dtype, device=self.device)
                if whole is not None:
                    rows.copy_(whole.reshape(-1, *shape[1:])[start:stop])
                dist.broadcast(rows, src=0)
                for parameter in mine.values():
                    _take(parameter, rows, start)
        assert not own, f"rank 0 has no weights for {', '.join(own)}"
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer if buffer is None else buffer.to(self.device)


def begin(make: Callable[[], torch.nn.Module], rank: int, world: int, device: Any = "cpu") -> Start:
    """Build a model on rank 0 (on its CPU) and its skeleton on all others.

    Args:
        make: called on rank 0 alone.
        device: where the rank computes.

    Raises:
        RaylmError: what `make` raised, on every rank.
    """
    if world == 1:
        return Start(make().to(device), None)
    sent: list[Any] = [None]
    weights = None
    if rank == 0:
        try:
            model = make()
            weights, sent[0] = _by_names(model), skeleton_of(model)
        except RaylmError as cause:
            # the others wait for the skeleton: they must learn that there is none
            sent[0] = cause
    dist.broadcast_object_list(sent, src=0)
    if isinstance(sent[0], RaylmError):
        raise sent[0]
    return Start(sent[0], WeightLoader(weights, device))


def skeleton_of(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters have no memory; buffers, which are small and follow from the config, are copied."""
    empty = {
        id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    # deepcopy treats what is in its memo as copied: tied parameters stay tied
    return copy.deepcopy(model, dict(empty))


def bounds(parameter: torch.Tensor) -> list[tuple[int, int]]:
    """First index and length of this rank's shard in each dimension of the whole parameter."""
    pieces = [(0, size) for size in parameter.shape]
    if not isinstance(parameter, DTensor):
        return pieces
    mesh = parameter.device_mesh
    coordinate: Any = mesh.get_coordinate()
    # tensor and expert ranks shard first and are the mesh's last dimensions; FSDP shards what they left
    for at in reversed(range(mesh.ndim)):
        place: Any = parameter.placements[at]
        if place.is_replicate():
            continue
        start, length = pieces[place.dim]
        size = -(-length // mesh.size(at))
        before = min(coordinate[at] * size, length)
        pieces[place.dim] = (start + before, min(size, length - before))
    return pieces


def _by_names(model: torch.nn.Module) -> dict[tuple[str, ...], torch.Tensor]:
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return {tuple(names[id(p)]): p for p in model.parameters()}


def _with_memory(model: torch.nn.Module, device: Any) -> dict[str, torch.nn.Parameter]:
    """Replace every parameter on the meta device; returns the new ones by all their names."""
    allocated: dict[int, torch.nn.Parameter] = {}
    own: dict[str, torch.nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is None or not p.is_meta:
                continue
            if id(p) not in allocated:
                allocated[id(p)] = torch.nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad)
            module._parameters[name] = own[f"{prefix}.{name}" if prefix else name] = allocated[id(p)]
    return own


def _blocks(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most BLOCK_BYTES, one row at least."""
    rows = shape[0] if shape else 1
    width = torch.empty(shape[1:], device="meta").numel() * dtype.itemsize
    step = max(1, BLOCK_BYTES // max(width, 1))
    yield from ((start, min(start + step, rows)) for start in range(0, rows, step))


def _take(parameter: torch.nn.Parameter, rows: torch.Tensor, start: int) -> None:
    """Copy the part of `rows` (from row `start` of the whole on) that belongs to this rank's shard."""
    local = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()
    if not parameter.dim():
        local.copy_(rows[0])
        return
    (first, length), *others = bounds(parameter)
    low, high = max(first, start), min(first + length, start + len(rows))
    if low >= high:
        return
    piece = rows[low - start : high - start]
    for dim, (offset, size) in enumerate(others, start=1):
        piece = piece.narrow(dim, offset, size)
    local[low - first : high - first].copy_(piece)
