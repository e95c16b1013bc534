"""The `awq` method: 4-bit weights, those behind large activations made larger before they are rounded (W4A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.methods.applied import Applied, unseen
from raylm.compress.methods.grid import Grid
from raylm.compress.methods.hessian import error
from raylm.compress.methods.rounding import round_weights, to_half
from raylm.compress.methods.sequential import grids_of
from raylm.compress.methods.smoothing import Pair, even, pairs, smooth
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.blocks import Block, Statistics
    from raylm.compress.calibration import Calibration


class Awq(Config):
    """Activation-aware scales (https://arxiv.org/abs/2306.00978), searched by the error of the outputs and folded into the norm
    or layer before; then rounding to nearest with searched ranges. No second-order fit: less bound to the rows than gptq."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    scheme: ClassVar[str] = "W4A16"
    makes: ClassVar[Literal["rounded", "plain"]] = "rounded"

    kind: Literal["awq"] = "awq"
    group_size: int = Field(default=128, gt=0, multiple_of=2)
    """Weights that share a scale; must divide every layer's input width. GPUs take 32, 64 and 128."""
    candidates: int = Field(default=10, ge=1)
    """Strengths that are tried for each group of layers, from none to all of the activations' size."""

    def apply(self, model: torch.nn.Module, calibration: Calibration | None) -> Applied:
        """Round `model` in place. Raises ConfigError where its blocks are no chain, DataError where numbers are not finite."""
        assert calibration is not None
        grid = Grid(4, self.group_size, half=True)
        grids, _ = grids_of(model, grid)
        for name in grids:
            grid.check(name, model.get_submodule(name))
        scales: dict[str, torch.Tensor] = {}
        tried = done = 0
        for block in calibration.blocks(model):
            found = block.statistics()
            for name, each in found.items():
                each.check(name)
            importance = {name: each.gram_II.diagonal() for name, each in found.items()}
            for pair in pairs(block):
                if not found.keys() >= set(pair.layers):
                    continue
                scale_I = self._search(block, pair, found[pair.layers[0]], grid)
                tried += 1
                if smooth(block, pair, scale_I):
                    done += 1
                    importance |= {name: importance[name] / scale_I.square() for name in pair.layers}
            for name in found.keys() & grids.keys():
                scales[name] = grid.search(block.layers[name].weight.data, importance[name])
        to_half(model)
        facts = {"smoothed": f"{done} of {tried} groups of layers", **unseen([*(grids.keys() - scales.keys())])}
        return Applied(round_weights(model, grid.arguments(), None, {}, scales), facts)

    def _search(self, block: Block, pair: Pair, found: Statistics, grid: Grid) -> torch.Tensor:
        """The scale of the smallest squared error of the outputs of the pair's layers."""
        import torch

        size_I = (found.gram_II.diagonal() / found.num_tokens).sqrt().clamp(min=1e-4)
        best, lowest = torch.ones_like(size_I), float("inf")
        for step in range(self.candidates + 1):
            scale_I = size_I ** (step / self.candidates)
            scale_I = even(pair, scale_I / (scale_I.max() * scale_I.min()).sqrt())
            wrong = sum(_error(block.layers[name], found, scale_I, grid) for name in pair.layers)
            if wrong < lowest:
                best, lowest = scale_I, wrong
        return best


def _error(layer: Any, found: Statistics, scale_I: torch.Tensor, grid: Grid) -> float:
    weight = layer.weight.data.float() * scale_I
    scale_OG = grid.search(weight, found.gram_II.diagonal() / scale_I.square())
    rounded = grid.integers(weight, scale_OG) * grid.spread(scale_OG, weight.shape[1]) / scale_I
    return float(error(layer.weight.data, found.gram_II, rounded).sum())
