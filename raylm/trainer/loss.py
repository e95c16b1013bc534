"""The loss of a micro batch: what every objective of training and every algorithm of RL returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Loss(NamedTuple):
    """Sums over a micro batch, never means: the trainer divides by the weight of the whole global batch."""

    total: torch.Tensor
    metrics: dict[str, torch.Tensor]
