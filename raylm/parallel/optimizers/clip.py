"""Gradient clipping by the global norm, over all layouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from raylm.parallel.mesh import Grid

# set on a parameter that is a copy of one on another pipeline stage (tied embeddings), whose name it holds: clipped, but
# counted there
COPY = "is_copy"


def clip_grad_norm(parameters: Iterable[Any], limit: float, grid: Grid | None = None) -> float:
    """The 2-norm over all parameters and ranks before clipping, the same on every rank.

    Parameters may lie on different meshes (tensor, expert, none): squares are summed over the ranks that hold different
    parts, and over pipeline stages. A norm that is not finite leaves gradients unusable.
    """
    import torch

    from raylm.model.torch_private import foreach_mul_

    groups: dict[tuple[Any, tuple[int, ...]], list[torch.Tensor]] = defaultdict(list)
    grads = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        local, mesh, cut = _local(parameter.grad)
        grads.append(local)
        if not getattr(parameter, COPY, False):
            groups[(mesh, cut)].append(local)
    squares = [_square(held, mesh, cut) for (mesh, cut), held in groups.items()]
    total = (
        torch.stack([square.to(squares[0].device) for square in squares]).sum()
        if squares
        else torch.zeros((), dtype=torch.float64)
    )
    if grid is not None and grid.sizes["pipeline"] > 1:
        total = total.to(grid.device)
        torch.distributed.all_reduce(total, group=grid.group("pipeline"))
    norm = total.sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for device in {grad.device for grad in grads}:
        # not a branch on the norm: that would make the host wait for the device
        foreach_mul_([grad for grad in grads if grad.device == device], scale.to(device, torch.float32))
    return float(norm)


def _local(gradient: Any) -> tuple[torch.Tensor, Any, tuple[int, ...]]:
    """This rank's part of a gradient, its mesh, and the dimensions of the mesh that hold different parts."""
    from torch.distributed.tensor import DTensor

    if not isinstance(gradient, DTensor):
        return gradient, None, ()
    assert not any(place.is_partial() for place in gradient.placements), "a gradient that is still to be summed"
    cut = tuple(dim for dim, place in enumerate(gradient.placements) if not place.is_replicate())
    return gradient.to_local(), gradient.device_mesh, cut


def _square(grads: list[torch.Tensor], mesh: Any, cut: tuple[int, ...]) -> torch.Tensor:
    """Sum of squares in float64 over what all ranks of these dimensions hold."""
    import torch

    from raylm.model.torch_private import foreach_norm

    total = torch.linalg.vector_norm(torch.stack(foreach_norm(grads)).double()) ** 2
    if cut:
        total = total.to(mesh.device_type)
        for dim in cut:
            if mesh.size(dim) > 1:
                torch.distributed.all_reduce(total, group=mesh.get_group(dim))
    return total
