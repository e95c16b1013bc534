"""Makes the weights of a model's linear layers sparse, block after block: what enters a block comes through the pruned ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylm.compress.blocks import Statistics
from raylm.compress.calibration import Calibration
from raylm.compress.coverage import MOST_LEFT
from raylm.compress.methods.applied import Applied
from raylm.compress.pruning.masks import Sparsity
from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

DENSE = (
    "vLLM and transformers multiply by these zeros as by any number: nothing gets faster and no byte is saved. For that take the "
    "methods depth or width."
)

Prune = Callable[["torch.Tensor", Statistics], "torch.Tensor"]
"""Makes a sparse matrix of a layer's weights [outputs, inputs], float32."""


def matrix(layer: Any) -> torch.Tensor:
    """A layer's weights as [outputs, inputs]; GPT-2's Conv1D stores them the other way round."""
    import torch

    return layer.weight.data if isinstance(layer, torch.nn.Linear) else layer.weight.data.T


def sparsify(model: Any, calibration: Calibration, sparsity: Sparsity, prune: Prune) -> Applied:
    """Prune every linear layer of the decoder blocks in place; embedding and output head stay.

    Raises:
        ConfigError: a layer's width does not fit the pattern, or the blocks' matrices are no linear layers.
        DataError: the weights, or what enters a layer, are not finite.
    """
    zeros: dict[str, int] = {}
    total = num_pruned = 0
    unseen: list[str] = []
    for block in calibration.blocks(model):
        layers = block.layers
        _check_linear(block.name, block.module, layers.values())
        statistics = block.statistics()
        for name, layer in layers.items():
            weight_OI = matrix(layer)
            sparsity.check(name, weight_OI.shape[1])
            total += weight_OI.numel()
            if name not in statistics:
                # an expert that no calibration token was sent to: nothing is known of what enters it
                unseen.append(name)
                continue
            found = statistics[name]
            if not bool(found.absmax_I.isfinite().all()) or not bool(weight_OI.isfinite().all()):
                raise DataError(
                    f"the weights of {name}, or what enters it, are not all finite", next="look at its training stage"
                )
            weight_OI.copy_(prune(weight_OI.float(), found))
            zeros[name] = int((weight_OI == 0).sum())
            num_pruned += weight_OI.numel()
    if not num_pruned:
        raise DataError("no calibration token came to any linear layer", next="take other rows, or more of them")
    facts: dict[str, Any] = {"zeros": zeros, "speed": DENSE}
    if unseen:
        facts["left"] = unseen
    count = sum(zeros.values())
    everything = sum(p.numel() for p in model.parameters())
    metrics = {
        "zeros": count,
        "pruned_zero_share": round(count / num_pruned, 6),
        "zero_share": round(count / everything, 6),
        "unpruned_layers": len(unseen),
    }
    return Applied(facts=facts, metrics=metrics)


def _check_linear(name: str, block: Any, layers: Any) -> None:
    """Raises ConfigError when a block's matrices are elsewhere than in linear layers."""
    mine = {id(layer.weight) for layer in layers}
    matrices = [(key, weight) for key, weight in block.named_parameters() if weight.dim() > 1]
    left = [(key, weight.numel()) for key, weight in matrices if id(weight) not in mine]
    if sum(size for _, size in left) > MOST_LEFT * sum(weight.numel() for _, weight in matrices):
        raise ConfigError(
            f"only linear layers can be made sparse; most of {name} lies elsewhere: {', '.join(key for key, _ in left[:3])}",
            next='prune whole layers instead: kind = "depth"',
        )
