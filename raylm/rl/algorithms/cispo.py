"""The `cispo` algorithm: the importance ratio is clipped and held constant, so that every token keeps its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.rl.algorithms.grouped import GroupNormalized
from raylm.rl.algorithms.policy_gradient import ratio_of
from raylm.rl.types import LossInputs

if TYPE_CHECKING:
    import torch


class Cispo(GroupNormalized):
    """Clipped importance-sampled policy optimisation (https://arxiv.org/abs/2506.13585): clip(ratio) * A * log-probability, the
    ratio without gradient."""

    kind: Literal["cispo"] = "cispo"
    clip: float | None = Field(default=None, gt=0, lt=1)
    """How far the ratio may go below 1; the paper holds it nowhere."""
    clip_high: float = Field(default=4.0, gt=0)
    """How far it may go above 1: 4 is a ratio of 5 (TRL's epsilon_high = 5; https://arxiv.org/abs/2510.13786 takes 4 to 5)."""

    def gain(self, inputs: LossInputs, log_ratio_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ratio_BT = ratio_of(log_ratio_BT.detach())
        clipped_BT = ratio_BT.clamp(None if self.clip is None else 1.0 - self.clip, 1.0 + self.clip_high)
        return clipped_BT * inputs.advantage_BT * inputs.logprob_BT, ratio_BT != clipped_BT
