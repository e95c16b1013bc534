"""Takes nothing, leaves the shape of what every objective returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Loss(NamedTuple):
    """Sums over a micro batch, never means: the loop divides by the weight of the whole global batch."""

    total: torch.Tensor
    metrics: dict[str, torch.Tensor]
