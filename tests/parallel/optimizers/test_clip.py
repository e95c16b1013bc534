"""Gradients on one rank and on meshes: there is one norm, and it is torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylm.parallel.mesh import Mesh
from raylm.parallel.optimizers.clip import COPY, clip_grad_norm
from tests.parallel.on_ranks import on_ranks


def parameters() -> list[Any]:
    draw = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.zeros(size)) for size in ((5, 4), (6, 3), (7,))]
    for one in made:
        one.grad = torch.randn(one.shape, generator=draw)
    return made


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_one_rank_clips_as_torch_does(limit):
    ours, theirs = parameters(), parameters()
    norm = clip_grad_norm(ours, limit)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, limit)), rel=1e-6)
    for left, right in zip(ours, theirs, strict=True):
        assert torch.allclose(left.grad, right.grad, rtol=1e-6)


def test_by_hand():
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm([one, torch.nn.Parameter(torch.zeros(3))], 1.0) == pytest.approx(5.0)
    assert one.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_nothing_to_clip_and_what_is_not_finite():
    assert clip_grad_norm([], 1.0) == 0.0
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([float("nan"), 1.0])
    assert clip_grad_norm([one], 1.0) != clip_grad_norm([one], 1.0)
    one.grad = torch.tensor([float("inf"), 1.0])
    assert clip_grad_norm([one], 1.0) == float("inf")


def on_meshes(rank: int, world: int) -> tuple[float, list[torch.Tensor]]:
    """Four ranks, tensor 2 x shards 2: a matrix cut both ways, one cut over tensor ranks alone, a vector on all."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    grid = Mesh(tensor=2).build(rank, world)
    both, tensor = grid.torch("shards", "tensor"), grid.torch("tensor")
    places: list[Any] = [(both, [Shard(0), Shard(1)]), (tensor, [Shard(0)]), (both, [Replicate(), Shard(0)])]
    made = []
    for whole, (mesh, where) in zip(parameters(), places, strict=True):
        one = torch.nn.Parameter(distribute_tensor(whole.detach(), mesh, where))
        assert whole.grad is not None
        one.grad = distribute_tensor(whole.grad, mesh, where)
        made.append(one)
    norm = clip_grad_norm(made, 0.5, grid)
    return norm, [one.grad.full_tensor() if isinstance(one.grad, DTensor) else one.grad for one in made]


def test_parts_on_several_meshes_are_counted_once():
    theirs = parameters()
    expected = float(torch.nn.utils.clip_grad_norm_(theirs, 0.5))
    for norm, grads in on_ranks(4, on_meshes):
        assert norm == pytest.approx(expected, rel=1e-6)
        assert all(torch.allclose(left, right.grad, rtol=1e-6) for left, right in zip(grads, theirs, strict=True))


def on_stages(rank: int, world: int) -> tuple[float, torch.Tensor]:
    """Two pipeline stages with gradients 3 and 4; each holds a copy of a weight with gradient 12, which counts once."""
    grid = Mesh(pipeline=2).build(rank, world)
    own, shared = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    own.grad, shared.grad = torch.tensor([3.0 + rank]), torch.tensor([12.0])
    if rank == 1:
        setattr(shared, COPY, True)
    return clip_grad_norm([own, shared], 1.3, grid), shared.grad


def test_stages_of_a_pipeline_share_one_norm():
    for norm, shared in on_ranks(2, on_stages):
        assert norm == pytest.approx(13.0)
        assert float(shared[0]) == pytest.approx(1.2, rel=1e-5)
