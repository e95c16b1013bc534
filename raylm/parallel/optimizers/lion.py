"""The `lion` optimizer: the sign of a momentum; one moment per weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch


class Lion(Scheduled):
    """Evolved sign momentum (https://arxiv.org/abs/2302.06675). Its lr is 3 to 10 times smaller than AdamW's, its decay as
    many times larger."""

    kind: Literal["lion"] = "lion"
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.3, ge=0)
    """Decoupled decay of matrices."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Share of the momentum in the update, and its decay."""

    @property
    def bytes_per_weight(self) -> float:
        return 4.0

    @property
    def elementwise(self) -> bool:
        return True

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        from raylm.parallel.optimizers.sign_momentum import SignMomentum

        return SignMomentum(self.groups(model), lr=self.lr, betas=self.betas)
