"""Importance of neurons, heads and channels on calibration rows, and what the units that stay can make up for.

B rows, T tokens, I inputs of a layer, O its outputs, U units of an axis (of several inputs each, where they are heads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Activation:
    """Minitron's importance (https://arxiv.org/abs/2407.14679): the norm of what a unit gives, mean over the tokens of a row, L2
    over rows."""

    def __init__(self, num_units: int) -> None:
        self._units = num_units
        self._squares: Any = 0.0

    def add(self, x_BTI: torch.Tensor) -> None:
        """Count what was given in some rows."""
        norms_BTU = x_BTI.float().unflatten(-1, (self._units, -1)).norm(dim=-1)
        self._squares = self._squares + norms_BTU.mean(1).square().sum(0)

    def scores(self) -> torch.Tensor:
        """Importance of each unit."""
        return self._squares.sqrt()


def contributions(gram_II: torch.Tensor, weight_OI: torch.Tensor, num_units: int) -> torch.Tensor:
    """Upper bound of what each unit adds to a layer's outputs: the norm of its inputs times that of the weights that read them,
    over all inputs of the unit, [U]."""
    energy_I = gram_II.diagonal().clamp(min=0) * weight_OI.float().square().sum(0)
    return energy_I.view(num_units, -1).sum(1).sqrt()


def compensated(weight_OI: torch.Tensor, gram_II: torch.Tensor, kept_K: torch.Tensor, damping: float) -> torch.Tensor:
    """Weights on the kept inputs, [O, K], whose outputs are nearest to those of all inputs with X^T X = `gram_II`.

    The minimum of |W X - W' X_K|^2 + d |W' - W_K|^2, with d = `damping` times the mean diagonal of the kept part: where little is
    known of an input, its weights stay what they are.
    """
    import torch

    gram_II, weight_OI = gram_II.double(), weight_OI.double()
    inner_KK = gram_II[kept_K][:, kept_K].clone()
    more = damping * inner_KK.diagonal().mean().clamp(min=1e-30)
    inner_KK.diagonal().add_(more)
    outer_OK = weight_OI @ gram_II[:, kept_K] + more * weight_OI[:, kept_K]
    return torch.linalg.solve(inner_KK, outer_OK.T).T


def hooked(modules: dict[str, Any], note: Callable[[str, torch.Tensor, torch.Tensor], None], run: Callable[[], None]) -> None:
    """Call `run`; `note(name, x, y)` is called with what enters and what leaves each of these modules."""

    def hook(name: str) -> Any:
        return lambda _, args, given: note(name, args[0].detach(), given.detach())

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        run()
    finally:
        for each in hooks:
            each.remove()
