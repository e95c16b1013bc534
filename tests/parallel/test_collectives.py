"""Takes tokens on three ranks, proves by hand what each exchange makes of them and of their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from raylm.parallel.collectives import cut, enter, gather, join, leave, reduce
from tests.parallel.on_ranks import on_ranks


def exchanged(rank: int, world: int) -> dict[str, Any]:
    """Each exchange of [1, T or S, 1] and the gradient of its input, for upstream gradients (rank + 1) x (1, 2, ...)."""
    group, found = dist.group.WORLD, {}
    whole, own = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0 + rank, 20.0 + rank])
    for name, given, change in (
        ("enter", whole, lambda x: enter(x, group)),
        ("leave", whole, lambda x: leave(x, group)),
        ("gather", own, lambda x: gather(x, 4, group)),
        ("join", own, lambda x: join(x, 4, group)),
        ("reduce", whole, lambda x: reduce(x, group)),
        ("cut", whole, lambda x: cut(x, group)),
    ):
        values = given.view(1, -1, 1).clone().requires_grad_()
        made = change(values)
        made.backward((rank + 1.0) * torch.arange(1.0, made.shape[1] + 1).view(1, -1, 1))
        assert values.grad is not None
        found[name] = [made.flatten().tolist(), values.grad.flatten().tolist()]
    return found


def test_by_hand():
    """Four tokens on three ranks: two each, the last rank has none but filling."""
    ranks = on_ranks(3, exchanged)
    for rank, found in enumerate(ranks):
        up = rank + 1.0
        assert found["enter"] == [[1, 2, 3, 4], [6, 12, 18, 24]]
        assert found["leave"] == [[3, 6, 9, 12], [up, 2 * up, 3 * up, 4 * up]]
        assert found["gather"] == [[10, 20, 11, 21], [[6, 12], [18, 24], [0, 0]][rank]]
        assert found["join"] == [[10, 20, 11, 21], [[up, 2 * up], [3 * up, 4 * up], [0, 0]][rank]]
        assert found["reduce"] == [[[3, 6], [9, 12], [0, 0]][rank], [1, 2, 2, 4]]
        assert found["cut"] == [[[1, 2], [3, 4], [0, 0]][rank], [1, 2, 2, 4]]
