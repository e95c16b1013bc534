"""Takes parameters and a step, leaves an optimizer and the learning rate of that step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config

if TYPE_CHECKING:
    import torch


class AdamW(Config):
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101), a schedule and clipping.

    Matrices decay, vectors (norms, biases) do not.
    """

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices."""
    clip: float = Field(default=1.0, gt=0)
    """Largest allowed global gradient norm."""
    warmup: float = Field(default=0.02, ge=0)
    """Linear warm-up: below 1 a share of all steps, from 1 on a number of steps."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """Decay after warm-up; `wsd` holds the peak and falls linearly over the last fifth."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (0 is the first) of `steps`."""
        warmup = self.warmup if self.warmup >= 1 else self.warmup * steps
        if step + 1 <= warmup:
            return self.lr * (step + 1) / math.ceil(warmup)
        progress = (step - warmup) / max(steps - 1 - warmup, 1)
        return self.lr * (self.floor + (1 - self.floor) * self._shape(min(max(progress, 0.0), 1.0)))

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        import torch

        trainable = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    def _shape(self, progress: float) -> float:
        """From 1 at the end of warm-up to 0 at the last step."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return 1.0 - progress
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return min(1.0, (1.0 - progress) / 0.2)
