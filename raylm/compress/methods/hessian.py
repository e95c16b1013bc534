"""Rounds one matrix so that its outputs change least: GPTQ (https://arxiv.org/abs/2210.17323), then coordinate descent over the
integers (QuantEase, https://arxiv.org/abs/2309.01885). Squared error of the outputs: tr (W - Q) H (W - Q)^T with H = X^T X."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

    from raylm.compress.methods.grid import Grid

# columns whose error is carried on one by one; to the columns behind it goes as one product
BLOCK = 64
# parts of the mean diagonal that are added, beside the damping, where the matrix has no Cholesky factor
MORE_DAMPING = (0.0, 0.01, 0.1, 1.0)


class Fitted(NamedTuple):
    """A rounded matrix of O outputs and I inputs."""

    integers_OI: torch.Tensor
    scale_OG: torch.Tensor
    latent_OI: torch.Tensor
    """In units of the scale: what was rounded to the integers, once the errors of earlier columns were carried over."""

    def weight(self, grid: Grid) -> torch.Tensor:
        return self.integers_OI * grid.spread(self.scale_OG, self.integers_OI.shape[1])


def damped(gram_II: torch.Tensor, damping: float) -> torch.Tensor:
    """X^T X, float32, with `damping` times its mean diagonal added; inputs that are always zero get one of their own."""
    import torch

    hessian = gram_II.float().clone()
    diagonal = hessian.diagonal()
    diagonal += torch.where(diagonal == 0, diagonal.mean().clamp(min=1e-8), 0.0)
    diagonal += damping * diagonal.mean()
    return hessian


def gptq(weight_OI: torch.Tensor, hessian_II: torch.Tensor, scale_OG: torch.Tensor, grid: Grid, act_order: bool) -> Fitted:
    """Round column after column, and carry each column's error over to those behind it.

    Args:
        hessian_II: damped, see `damped`.
        act_order: columns of the largest inputs first. Groups stay those of neighbouring inputs, so that kernels need no order.
    """
    import torch

    width = weight_OI.shape[1]
    diagonal = hessian_II.diagonal()
    order = torch.argsort(diagonal, descending=True) if act_order else torch.arange(width, device=diagonal.device)
    work = weight_OI.float()[:, order].T.contiguous()
    scale = grid.spread(scale_OG.float(), width)[:, order].T.contiguous()
    # upper factor of the inverse: row j says how the error of column j is shared out among those behind
    factor = inverse_factor(hessian_II[order][:, order])
    whole, latent = torch.empty_like(work), torch.empty_like(work)
    # of a pruned matrix: others make up for each other's errors, and zeros stay zeros
    pruned = work == 0
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = torch.empty_like(work[start:end])
        for j in range(start, end):
            unit = work[j] / scale[j]
            latent[j] = unit
            whole[j] = unit.round().clamp_(grid.low, grid.high).masked_fill_(pruned[j], 0)
            errors[j - start] = (work[j] - whole[j] * scale[j]) / factor[j, j]
            if j + 1 < end:
                work[j + 1 : end].addr_(factor[j, j + 1 : end], errors[j - start], alpha=-1)
        if end < width:
            work[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    back = torch.argsort(order)
    return Fitted(whole[back].T.contiguous(), scale_OG, latent[back].T.contiguous())


def inverse_factor(hessian_II: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse. What float32 makes of nearly dependent inputs may have none: more is added to
    the diagonal then.

    Raises:
        DataError: there is none with all of the mean diagonal added, either.
    """
    import torch

    mean = hessian_II.diagonal().mean()
    for more in MORE_DAMPING:
        lower, failed = torch.linalg.cholesky_ex(hessian_II + more * mean * torch.eye(len(hessian_II), device=mean.device))
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and bool(upper.isfinite().all()):
                return upper
    raise DataError(
        "X^T X of what enters the layer has no Cholesky factor, its inputs are too nearly dependent",
        next="raise `damping`, take more calibration rows, or a method that needs none",
    )


def descend(weight_OI: torch.Tensor, hessian_II: torch.Tensor, fitted: Fitted, grid: Grid, passes: int) -> Fitted:
    """Coordinate descent: each integer anew, given all others; the squared error of the outputs never rises."""
    import torch

    weight, whole = weight_OI.float().T.contiguous(), fitted.integers_OI.T.contiguous()
    scale = grid.spread(fitted.scale_OG, weight_OI.shape[1]).T.contiguous()
    latent = fitted.latent_OI.T.contiguous()
    diagonal, pruned = hessian_II.diagonal(), weight == 0
    for _ in range(passes):
        # row j: half the gradient of the error with respect to column j
        slope = hessian_II @ (whole * scale - weight)
        for start in range(0, len(weight), BLOCK):
            end = min(start + BLOCK, len(weight))
            moved = torch.zeros_like(weight[start:end])
            part = slope[start:end]
            for j in range(start, end):
                best = whole[j] - part[j - start] / (diagonal[j] * scale[j])
                new = best.round().clamp_(grid.low, grid.high).masked_fill_(pruned[j], 0)
                moved[j - start] = (new - whole[j]) * scale[j]
                latent[j], whole[j] = best, new
                if j + 1 < end:
                    part[j + 1 - start :].addr_(hessian_II[j, j + 1 : end], moved[j - start])
            if end < len(weight):
                slope[end:].addmm_(hessian_II[start:end, end:].T, moved)
    return Fitted(whole.T.contiguous(), fitted.scale_OG, latent.T.contiguous())


def refit(weight_OI: torch.Tensor, hessian_II: torch.Tensor, fitted: Fitted, grid: Grid) -> Fitted:
    """The scales of the smallest error for these integers, all groups of a row together, in closed form. A row keeps its scales
    where their stored form would be no better."""
    import torch

    whole, groups = fitted.integers_OI, fitted.scale_OG.shape[1]
    size = whole.shape[1] // groups
    weight = weight_OI.float()
    target_OI = weight @ hessian_II
    scales = []
    for at in range(0, len(whole), 64):
        part = whole[at : at + 64]
        spread = torch.einsum("ogs,gsi->ogi", part.unflatten(1, (groups, size)), hessian_II.unflatten(0, (groups, size)))
        left = (spread.unflatten(2, (groups, size)) * part.unflatten(1, (groups, size))[:, None]).sum(-1)
        right = (target_OI[at : at + 64] * part).unflatten(1, (groups, size)).sum(-1)
        left = left + torch.diag_embed(left.diagonal(dim1=1, dim2=2) * 1e-4 + 1e-12)
        scales.append(torch.linalg.solve(left, right))
    found = grid.stored(torch.cat(scales))
    found = torch.where(found.abs() > 1e-10, found, fitted.scale_OG)
    new = fitted._replace(scale_OG=found)
    before, after = (error(weight, hessian_II, each.weight(grid)) for each in (fitted, new))
    chosen = torch.where((after < before)[:, None], found, fitted.scale_OG)
    return fitted._replace(scale_OG=chosen, latent_OI=whole)


def error(weight_OI: torch.Tensor, hessian_II: torch.Tensor, rounded_OI: torch.Tensor) -> torch.Tensor:
    """Squared error of each output, [O]."""
    apart = rounded_OI - weight_OI.float()
    return ((apart @ hessian_II) * apart).sum(1)
