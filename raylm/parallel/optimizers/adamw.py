"""The `adamw` optimizer: torch's own, or bitsandbytes' with 8-bit moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from raylm.core.errors import ConfigError
from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch


class AdamW(Scheduled):
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    bits: Literal[32, 8] = 32
    """8 keeps both moments in blocks of 8-bit numbers (https://arxiv.org/abs/2110.02861): a quarter of the memory."""
    paged: bool = False
    """With 8 bits, on GPUs: moments move to the host's memory when the GPU's is short."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.paged and self.bits != 8:
            raise ConfigError("optimizer.paged is of 8-bit moments", next="bits = 8, or drop paged")
        return self

    @property
    def bytes_per_weight(self) -> float:
        return 2 + 8 / 256 if self.bits == 8 else 8.0

    @property
    def elementwise(self) -> bool:
        return self.bits == 32

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        import torch

        if self.bits == 8:
            from raylm.parallel.optimizers.eight_bit import AdamW8

            return AdamW8(self.groups(model), lr=self.lr, betas=self.betas, eps=self.eps, paged=self.paged)
        return torch.optim.AdamW(self.groups(model), lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
