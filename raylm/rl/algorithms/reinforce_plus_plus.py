"""The `reinforce_plus_plus` algorithm: REINFORCE with PPO's clip and advantages normalised over the global batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.rl.algorithms.clipped import Clipped
from raylm.rl.algorithms.shaping import discounted, rewards_at, spread, whiten
from raylm.rl.types import Sample


class ReinforcePlusPlus(Clipped):
    """REINFORCE++ (https://arxiv.org/abs/2501.03262): returns of single tokens, with a `kl` that is in the reward, whitened over
    all tokens of the iteration. It has no critic, and needs no group."""

    kind: Literal["reinforce_plus_plus"] = "reinforce_plus_plus"
    num_generations: int = Field(default=1, gt=0)
    """Completions per prompt."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go above 1."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """A later token's reward counts so much, for each token between."""

    def estimate(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """Discounted returns, whitened; nothing where all of them are equal."""
        reward_BM, mask_BM = rewards_at(samples)
        return_BM = discounted(reward_BM, self.gamma) * mask_BM
        found = return_BM[mask_BM > 0]
        if not len(found) or found.max() == found.min():
            return [], {}
        return spread(samples, "advantages", whiten(return_BM, mask_BM)), {}
