"""GPTQ against the plain algorithm that it speeds up, and what descent and refitted scales do to the error of the outputs."""

from __future__ import annotations

import itertools

import pytest
import torch

from raylm.compress.methods.grid import Grid
from raylm.compress.methods.hessian import Fitted, damped, descend, error, gptq, refit
from raylm.core.errors import DataError

OUT, IN = 12, 96


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    mixed = torch.randn(400, IN) @ (torch.eye(IN) + 0.3 * torch.randn(IN, IN)) * torch.rand(IN).exp()
    return torch.randn(OUT, IN) * 0.1, damped(mixed.T @ mixed, 0.01)


def brain_surgeon(weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, grid: Grid, order: list[int]) -> torch.Tensor:
    """Optimal Brain Quantization by its definition: the inverse of what is left of H is made anew for each column."""
    work, whole = weight.double().clone(), torch.zeros_like(weight)
    steps, left = grid.spread(scale, weight.shape[1]).double(), list(order)
    for column in order:
        inverse = torch.linalg.inv(hessian.double()[left][:, left])
        at = left.index(column)
        whole[:, column] = (work[:, column] / steps[:, column]).round().clamp(grid.low, grid.high).float()
        wrong = (work[:, column] - whole[:, column] * steps[:, column]) / inverse[at, at]
        work[:, left] -= wrong[:, None] * inverse[at][None]
        left.remove(column)
    return whole


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_the_brain_surgeon_column_by_column(act_order):
    weight, hessian = problem()
    grid = Grid(4, 32)
    scale = grid.search(weight, hessian.diagonal())
    order = torch.argsort(hessian.diagonal(), descending=True).tolist() if act_order else list(range(IN))
    found = gptq(weight, hessian, scale, grid, act_order)
    wanted = brain_surgeon(weight, hessian, scale, grid, order)
    # a tie that falls the other way in float32 changes what comes behind it in its row
    assert float((found.integers_OI == wanted).float().mean()) > 0.99
    assert found.integers_OI.equal(found.latent_OI.round().clamp(grid.low, grid.high))


def test_each_step_lowers_the_error_of_the_outputs():
    weight, hessian = problem(1)
    grid = Grid(4, 32, half=True)
    scale = grid.widest(weight)
    nearest = Fitted(grid.integers(weight, scale), scale, weight)
    first = gptq(weight, hessian, grid.search(weight, hessian.diagonal()), grid, True)
    steps = [nearest, first]
    for _ in range(2):
        steps.append(refit(weight, hessian, steps[-1], grid))
        steps.append(descend(weight, hessian, steps[-1], grid, 1))
    errors = [error(weight, hessian, each.weight(grid)) for each in steps]
    totals = [float(each.sum()) for each in errors]
    assert totals[1] < 0.6 * totals[0] and totals == sorted(totals, reverse=True) and totals[-1] < 0.97 * totals[1]
    # of every single row, but for what float32 adds up otherwise
    assert all(bool((after <= before * 1.0001).all()) for before, after in itertools.pairwise(errors[1:]))
    assert all(each.scale_OG.equal(grid.stored(each.scale_OG)) for each in steps[1:])


def test_refitted_scales_are_the_least_squares_solution():
    weight, hessian = problem(2)
    grid = Grid(4, 32)
    start = gptq(weight, hessian, grid.search(weight), grid, False)
    found = refit(weight, hessian, start, grid).scale_OG[0]
    # the same by torch.linalg.lstsq on H = L L^T
    lower = torch.linalg.cholesky(hessian.double())
    parts = [(start.integers_OI[0, at : at + 32].double() @ lower[at : at + 32]) for at in range(0, IN, 32)]
    wanted = torch.linalg.lstsq(torch.stack(parts, 1), (weight[0].double() @ lower)[:, None]).solution[:, 0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-6)


def test_inputs_that_are_always_zero_break_nothing():
    weight, hessian = problem()
    gram = hessian.clone()
    gram[5], gram[:, 5] = 0, 0
    found = gptq(weight, damped(gram, 0.01), Grid(4, 32).search(weight), Grid(4, 32), True)
    assert bool(found.integers_OI.isfinite().all())


def test_a_matrix_without_a_factor_gets_more_damping_or_is_refused():
    torch.manual_seed(2)
    # rank one, and less than nothing on the diagonal: what cancellation in float32 may leave
    row = torch.randn(IN)
    broken = row[:, None] * row - 1e-4 * row.square().mean() * torch.eye(IN)
    with pytest.raises(RuntimeError):
        torch.linalg.cholesky(broken)
    weight, grid = torch.randn(OUT, IN) * 0.1, Grid(4, 32)
    found = gptq(weight, broken, grid.search(weight), grid, True)
    assert bool(found.integers_OI.isfinite().all()) and bool((found.integers_OI.abs() <= 8).all())
    with pytest.raises(DataError, match="has no Cholesky factor"):
        gptq(weight, -torch.eye(IN), grid.search(weight), grid, True)
