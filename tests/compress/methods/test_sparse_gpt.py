"""SparseGPT: beside hand-worked numbers, and beside the paper's formulas with an inverse for each column."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.methods.sparse_gpt import SparseGpt, sparse_gpt
from raylm.compress.methods.wanda import wanda
from raylm.compress.pruning.masks import Sparsity
from raylm.core.errors import DataError
from tests.compress.pruned import calibration, family


def by_the_formula(weight_OI, gram_II, damping, size, share=0.5, pattern=None):
    """The paper's equations 3 to 5, column by column, with the inverse Hessian of all columns from j on made anew for each j.

    A weight w_j that goes costs w_j^2 / [H_j^-1]_jj and changes the others by -w_j / [H_j^-1]_jj * [H_j^-1]_j. Which go is
    chosen for `size` columns at a time (in each output for n:m, m columns at a time).
    """
    width = weight_OI.shape[1]
    hessian = gram_II.double() + damping * gram_II.double().diagonal().mean() * torch.eye(width).double()
    inverse = [torch.linalg.inv(hessian[j:, j:]) for j in range(width)]
    made = weight_OI.double().clone()
    gone = torch.zeros(made.shape, dtype=torch.bool)
    for j in range(width):
        group = pattern[1] if pattern else size
        if j % group == 0:
            end = min(j + group, width)
            cost = torch.stack([made[:, c] ** 2 / inverse[c][0, 0] for c in range(j, end)], 1)
            if pattern:
                for output in range(len(made)):
                    for c in sorted(range(end - j), key=lambda c: float(cost[output, c]))[: pattern[1] - pattern[0]]:
                        gone[output, j + c] = True
            else:
                flat = sorted(range(cost.numel()), key=lambda at: float(cost.flatten()[at]))
                for at in flat[: int(cost.numel() * share)]:
                    gone[at // (end - j), j + at % (end - j)] = True
        for output in range(len(made)):
            if gone[output, j]:
                made[output, j:] -= made[output, j] / inverse[j][0, 0] * inverse[j][0]
                made[output, j] = 0.0
    return made.float()


def inputs(width, rows=300):
    torch.manual_seed(5)
    # correlated, as activations are
    return torch.randn(rows, width) @ (torch.eye(width) + 0.3 * torch.randn(width, width))


def test_by_hand():
    # H = [[2, 1], [1, 2]], H^-1 = [[2, -1], [-1, 2]] / 3. The first weight costs 1 / (2 / 3), the second 9 / (1 / 2); it
    # goes, and the second becomes 3 - 1 / (2 / 3) * (-1 / 3) = 3.5, as least squares says: (H_10 * 1 + H_11 * 3) / H_11.
    pruned = sparse_gpt(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), Sparsity(0.5), damping=1e-9)
    assert torch.allclose(pruned, torch.tensor([[0.0, 3.5]]), atol=1e-5)
    # the other way round the second would go; nothing lies behind it that could make up for it
    pruned = sparse_gpt(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), Sparsity(0.5), damping=1e-9)
    assert torch.allclose(pruned, torch.tensor([[3.0, 0.0]]), atol=1e-5)


@pytest.mark.parametrize(
    ("share", "pattern", "size"),
    [(0.5, None, 8), (0.5, None, 128), (0.7, None, 8), (0.5, (2, 4), 8), (0.5, (2, 4), 6), (0.5, (4, 8), 128)],
)
def test_as_the_papers_formulas(share, pattern, size):
    x = inputs(24)
    weight, gram = torch.randn(10, 24), x.T @ x
    sparsity = Sparsity.read(share, pattern and f"{pattern[0]}:{pattern[1]}")
    ours, theirs = sparse_gpt(weight, gram, sparsity, 0.01, size), by_the_formula(weight, gram, 0.01, size, share, pattern)
    assert torch.equal(ours == 0, theirs == 0)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("sparsity", [Sparsity(0.5), Sparsity.read(0.5, "2:4")])
def test_outputs_are_nearer_than_wandas(sparsity):
    x = inputs(64)
    weight = torch.randn(48, 64)
    gram = x.T @ x
    error = {
        name: float((x @ (made - weight).T).norm())
        for name, made in {
            "sparse_gpt": sparse_gpt(weight, gram, sparsity),
            "wanda": wanda(weight, gram.diagonal().sqrt(), sparsity),
        }.items()
    }
    assert error["sparse_gpt"] < 0.95 * error["wanda"]


def test_an_input_that_was_always_zero_loses_its_weights():
    x = inputs(16)
    x[:, 3] = 0
    pruned = sparse_gpt(torch.randn(6, 16), x.T @ x, Sparsity(0.25))
    assert bool((pruned[:, 3] == 0).all()) and bool(pruned.isfinite().all())


def test_a_matrix_without_a_factor_is_refused():
    with pytest.raises(DataError, match="raise `damping`"):
        sparse_gpt(torch.ones(2, 2), torch.tensor([[1.0, 4.0], [4.0, 1.0]]), Sparsity(0.5))


@pytest.mark.parametrize("card", [SparseGpt(share=0.5), SparseGpt(pattern="2:4")])
def test_a_model_has_the_zeros_that_are_said(card):
    model = family("llama")
    applied = card.apply(model, calibration(rows=12))
    for name, count in applied.facts["zeros"].items():
        weight = model.get_submodule(name).weight
        assert count == int((weight == 0).sum()) == weight.numel() // 2
        if card.pattern:
            assert bool(((weight.view(-1, 4) == 0).sum(1) == 2).all())
