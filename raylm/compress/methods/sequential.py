"""GPTQ over a whole model, block after block: each block is measured on what the rounded blocks before it give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.compress.coverage import layers_to_round
from raylm.compress.methods.hessian import Fitted, damped, descend, error, gptq, refit
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.grid import Grid


class Recipe(NamedTuple):
    """How each matrix is fitted."""

    act_order: bool = True
    damping: float = 0.01
    passes: int = 2
    """Passes of coordinate descent behind GPTQ, each with the closed-form scales of its integers."""


class Sequential(NamedTuple):
    """A model whose linear layers hold rounded values."""

    fitted: dict[str, Fitted]
    output_error: float
    """Squared error of the layers' outputs over that of rounding to nearest with the scale of the largest weight."""
    unseen: list[str]
    """Layers that no calibration token came to, rounded to nearest."""


def round_blocks(model: torch.nn.Module, calibration: Calibration, grids: dict[str, Grid], recipe: Recipe) -> Sequential:
    """Round the layers named in `grids`, in place.

    Raises:
        ConfigError: a layer's shape does not fit its grid, or the blocks are no chain.
        DataError: weights or activations are not finite.
    """
    for name, grid in grids.items():
        grid.check(name, model.get_submodule(name))
    done: dict[str, Fitted] = {}
    ours = nearest = 0.0
    for block in calibration.blocks(model):
        wanted = grids.keys() & block.layers.keys()
        for name, found in block.statistics(only=wanted).items():
            layer = block.layers[name]
            found.check(name)
            hessian = damped(found.gram_II, recipe.damping)
            try:
                fitted = fit(layer.weight.data, hessian, grids[name], recipe)
            except DataError as cause:
                raise DataError(f"{name}: {cause.what}", next=cause.next) from cause
            widest = grids[name].widest(layer.weight.data)
            plain = grids[name].integers(layer.weight.data.float(), widest) * grids[name].spread(widest, layer.in_features)
            ours += float(error(layer.weight.data, hessian, fitted.weight(grids[name])).sum())
            nearest += float(error(layer.weight.data, hessian, plain).sum())
            done[name] = fitted
        for name in wanted & done.keys():
            block.layers[name].weight.data.copy_(done[name].weight(grids[name]))
    others = sorted(grids.keys() - done.keys())
    for name in others:
        # outside of the decoder's blocks, or no token came there
        layer: Any = model.get_submodule(name)
        scale = grids[name].search(layer.weight.data)
        whole = grids[name].integers(layer.weight.data.float(), scale)
        done[name] = Fitted(whole, scale, layer.weight.data.float() / grids[name].spread(scale, layer.in_features))
        layer.weight.data.copy_(done[name].weight(grids[name]))
    return Sequential(done, ours / nearest if nearest else 1.0, others)


def fit(weight_OI: torch.Tensor, hessian_II: torch.Tensor, grid: Grid, recipe: Recipe) -> Fitted:
    """Integers and scales of one matrix: scales searched by the size of the inputs, GPTQ, then descent and refitted scales."""
    fitted = gptq(weight_OI, hessian_II, grid.search(weight_OI, hessian_II.diagonal()), grid, recipe.act_order)
    for _ in range(recipe.passes):
        fitted = descend(weight_OI, hessian_II, refit(weight_OI, hessian_II, fitted, grid), grid, 1)
    return fitted


def grids_of(model: torch.nn.Module, grid: Grid) -> tuple[dict[str, Grid], list[str]]:
    """The same grid for every linear layer that can be rounded, and the names of what is kept. Raises ConfigError, see
    `layers_to_round`."""
    rounded, kept = layers_to_round(model)
    return dict.fromkeys(rounded, grid), kept
