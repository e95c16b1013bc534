"""The `gspo` algorithm: GRPO's advantages with one importance ratio per completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.rl.algorithms.clipped import surrogate
from raylm.rl.algorithms.grouped import GroupNormalized
from raylm.rl.algorithms.policy_gradient import ratio_of
from raylm.rl.types import LossInputs

if TYPE_CHECKING:
    import torch


class Gspo(GroupNormalized):
    """Group sequence policy optimisation (https://arxiv.org/abs/2507.18071): the ratio is the geometric mean over the tokens of a
    completion, and clipped as a whole. Where the tokens' own ratios are noise, as in mixtures of experts, this one is not."""

    kind: Literal["gspo"] = "gspo"
    aggregation: Literal["token", "sequence", "group", "constant"] = "sequence"
    """As of the other algorithms; GSPO's own takes each completion as one action."""
    clip: float = Field(default=3e-4, gt=0)
    """How far the ratio may go below 1: far less than a token's."""
    clip_high: float = Field(default=4e-4, gt=0)
    """How far it may go above 1."""

    def gain(self, inputs: LossInputs, log_ratio_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawn_BT = (inputs.mask_BT > 0).to(log_ratio_BT.dtype)
        mean_BT = inputs.sequence_sums(log_ratio_BT * drawn_BT) / inputs.sequence_sums(drawn_BT).clamp(min=1.0)
        return surrogate(ratio_of(mean_BT), inputs.advantage_BT, self.clip, self.clip_high)
