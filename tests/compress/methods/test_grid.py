"""Scales of a grid: worked by hand, never worse than those of the largest weight, refused where they do not fit."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.methods.grid import Grid
from raylm.core.errors import ConfigError, DataError


def test_the_side_of_the_largest_weight_gets_the_eighth_step():
    weight = torch.tensor([[8.0, -7.0, 1.0, 3.0], [-8.0, 7.0, 2.0, 0.0]])
    grid = Grid(4, 4)
    scale = grid.search(weight)
    assert scale.flatten().tolist() == [-1.0, 1.0]
    assert (grid.integers(weight, scale) * grid.spread(scale, 4)).equal(weight)
    # compressed-tensors' own: 15 steps over both sides, and the largest weight is not met
    assert grid.widest(weight)[0].item() == pytest.approx(8 / 7.5)


def error(weight: torch.Tensor, grid: Grid, scale: torch.Tensor, importance: torch.Tensor | float = 1.0) -> float:
    apart = grid.integers(weight, scale) * grid.spread(scale, weight.shape[1]) - weight
    return float((apart.square() * importance).sum())


@pytest.mark.parametrize("grid", [Grid(4, 32), Grid(4, 32, half=True), Grid(8), Grid(8, reduced=True)], ids=str)
def test_a_searched_scale_is_never_worse(grid):
    torch.manual_seed(0)
    weight, importance = torch.randn(16, 64) ** 3, torch.rand(64) ** 4
    for each in (None, importance):
        found = grid.search(weight, each)
        judged = 1.0 if each is None else each
        assert error(weight, grid, found, judged) < error(weight, grid, grid.widest(weight), judged)
        assert grid.stored(found).equal(found) and found.shape == ((16, 2) if grid.group_size else (16, 1))
    assert grid.bits == 4 or bool((grid.search(weight) > 0).all()), "8-bit kernels are given no negative scales"


def test_a_reduced_range_ends_at_64():
    weight = torch.tensor([[-2.0, 0.51, 1.0, 0.0], [3.2, -0.024, 0.0, 0.05]])
    grid = Grid(8, reduced=True)
    scale = grid.widest(weight)
    assert scale.tolist() == [[pytest.approx(2.0 / 64)], [pytest.approx(3.2 / 64)]]
    assert grid.integers(weight, scale).tolist() == [[-64, 16, 32, 0], [64, 0, 0, 1]]
    # a smaller scale cuts: what lies on the grid afterwards is the same integers for one that cuts at 127
    grid.snap(weight, scale / 2)
    assert (weight / (scale / 2)).round().tolist() == [[-64, 33, 64, 0], [64, -1, 0, 2]]
    assert grid.arguments().observer_kwargs == {"reduce_range": True} and not Grid(8).arguments().observer_kwargs


def test_weights_of_nothing_have_a_scale():
    assert bool(Grid(4, 4).search(torch.zeros(2, 8)).isfinite().all())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="layer has 48 inputs, no multiple of group_size 32"):
        Grid(4, 32).check("layer", torch.nn.Linear(48, 32))
    with pytest.raises(ConfigError, match="4-bit kernels take multiples of 32"):
        Grid(4, 4).check("layer", torch.nn.Linear(32, 12))
    broken = torch.nn.Linear(32, 32)
    broken.weight.data[0, 0] = torch.inf
    with pytest.raises(DataError, match="weights of layer are not all finite"):
        Grid(8).check("layer", broken)
