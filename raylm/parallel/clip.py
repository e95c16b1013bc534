"""Takes parameters with gradients, leaves their global norm and gradients no longer than allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def clip_grad_norm(parameters: Sequence[Any], limit: float) -> float:
    """The 2-norm over all parameters and ranks before clipping. A norm that is not finite leaves gradients unusable."""
    import torch

    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
