"""The `rloo` algorithm: REINFORCE with the mean of a prompt's other completions as baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.rl.algorithms.clipped import surrogate
from raylm.rl.algorithms.grouped import Group, Grouped, deviation
from raylm.rl.algorithms.policy_gradient import ratio_of
from raylm.rl.types import LossInputs

if TYPE_CHECKING:
    import torch


class Rloo(Grouped):
    """REINFORCE leave-one-out (https://arxiv.org/abs/2402.14740), with the clipped ratio of the whole completion, as TRL has
    it."""

    kind: Literal["rloo"] = "rloo"
    aggregation: Literal["token", "sequence", "group", "constant"] = "sequence"
    """As of the other algorithms; RLOO's own takes each completion as one action."""
    ratio: Literal["sequence", "token"] = "sequence"
    """Of a whole completion, the product over its tokens; or of each token, as PPO has it."""
    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go below 1."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far it may go above 1."""
    normalize_advantages: bool = False
    """Divide them by their standard deviation over the iteration."""

    def compare(self, groups: list[Group]) -> list[list[float]]:
        """Each reward less the mean of the others of its group."""
        found = [[(reward - group.mean) * _others(group) for reward in group.rewards] for group in groups]
        if not self.normalize_advantages:
            return found
        every = [value for values in found for value in values]
        mean, scale = sum(every) / max(len(every), 1), deviation(every) + 1e-4
        return [[(value - mean) / scale for value in values] for values in found]

    def gain(self, inputs: LossInputs, log_ratio_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.ratio == "sequence":
            log_ratio_BT = inputs.sequence_sums(log_ratio_BT * (inputs.mask_BT > 0))
        return surrogate(ratio_of(log_ratio_BT), inputs.advantage_BT, self.clip, self.clip_high)


def _others(group: Group) -> float:
    """r - mean of the n - 1 others = (r - mean of all) * n / (n - 1)."""
    return len(group.rewards) / max(len(group.rewards) - 1, 1)
