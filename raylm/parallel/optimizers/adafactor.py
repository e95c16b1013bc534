"""The `adafactor` optimizer: second moments of matrices as a row and a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch


class Adafactor(Scheduled):
    """Sublinear memory (https://arxiv.org/abs/1804.04235): steps relative to a weight's size."""

    kind: Literal["adafactor"] = "adafactor"
    lr: float = Field(default=1e-2, gt=0)
    """Peak learning rate, relative to the root mean square of each weight."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices."""
    beta2_decay: float = Field(default=-0.8, lt=0)
    """Exponent of the step number in the decay of second moments."""

    @property
    def bytes_per_weight(self) -> float:
        return 0.02

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        from raylm.parallel.optimizers.factored import Factored

        return Factored(self.groups(model), lr=self.lr, beta2_decay=self.beta2_decay)
