"""The clipped surrogate of PPO, token by token, for the cards that have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raylm.rl.algorithms.policy_gradient import PolicyGradient, ratio_of
from raylm.rl.types import LossInputs

if TYPE_CHECKING:
    import torch


class Clipped(PolicyGradient):
    """min(ratio * A, clip(ratio) * A) at each token (https://arxiv.org/abs/1707.06347)."""

    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go below 1."""
    clip_high: float = Field(default=0.28, gt=0)
    """How far it may go above 1."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Greatest ratio that counts where the advantage is negative (https://arxiv.org/abs/1912.09729; TRL's `delta`)."""

    def gain(self, inputs: LossInputs, log_ratio_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ratio_BT = ratio_of(log_ratio_BT)
        return surrogate(ratio_BT, inputs.advantage_BT, self.clip, self.clip_high, self.dual_clip)


def surrogate(
    ratio_BT: torch.Tensor, advantage_BT: torch.Tensor, low: float, high: float, dual: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smaller of ratio * A and clipped ratio * A, and where the ratio is outside of [1 - low, 1 + high]."""
    import torch

    clipped_BT = ratio_BT.clamp(1.0 - low, 1.0 + high)
    capped_BT = ratio_BT if dual is None else ratio_BT.clamp(max=dual)
    return torch.minimum(capped_BT * advantage_BT, clipped_BT * advantage_BT), ratio_BT != clipped_BT
