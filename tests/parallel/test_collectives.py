"""Collectives on three ranks: outputs and gradients by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from raylm.parallel.collectives import (
    copy_to_region,
    gather_from_region,
    gather_from_sequence,
    reduce_from_region,
    reduce_scatter_to_sequence,
    scatter_to_sequence,
)
from tests.parallel.on_ranks import on_ranks


def collected(rank: int, world: int) -> dict[str, Any]:
    """Each collective on [1, T or S, 1] and the gradient of its input, for upstream gradients (rank + 1) x (1, 2, ...)."""
    group, found = dist.group.WORLD, {}
    whole, own = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0 + rank, 20.0 + rank])
    for name, given, change in (
        ("copy_to_region", whole, lambda x: copy_to_region(x, group)),
        ("reduce_from_region", whole, lambda x: reduce_from_region(x, group)),
        ("gather_from_sequence", own, lambda x: gather_from_sequence(x, 4, group)),
        ("gather_from_region", own, lambda x: gather_from_region(x, 4, group)),
        ("reduce_scatter_to_sequence", whole, lambda x: reduce_scatter_to_sequence(x, group)),
        ("scatter_to_sequence", whole, lambda x: scatter_to_sequence(x, group)),
    ):
        values = given.view(1, -1, 1).clone().requires_grad_()
        made = change(values)
        made.backward((rank + 1.0) * torch.arange(1.0, made.shape[1] + 1).view(1, -1, 1))
        assert values.grad is not None
        found[name] = [made.flatten().tolist(), values.grad.flatten().tolist()]
    return found


def test_by_hand():
    """Four tokens on three ranks: two each, the last rank has none but filling."""
    ranks = on_ranks(3, collected)
    for rank, found in enumerate(ranks):
        up = rank + 1.0
        assert found["copy_to_region"] == [[1, 2, 3, 4], [6, 12, 18, 24]]
        assert found["reduce_from_region"] == [[3, 6, 9, 12], [up, 2 * up, 3 * up, 4 * up]]
        assert found["gather_from_sequence"] == [[10, 20, 11, 21], [[6, 12], [18, 24], [0, 0]][rank]]
        assert found["gather_from_region"] == [[10, 20, 11, 21], [[up, 2 * up], [3 * up, 4 * up], [0, 0]][rank]]
        assert found["reduce_scatter_to_sequence"] == [[[3, 6], [9, 12], [0, 0]][rank], [1, 2, 2, 4]]
        assert found["scatter_to_sequence"] == [[[1, 2], [3, 4], [0, 0]][rank], [1, 2, 2, 4]]
