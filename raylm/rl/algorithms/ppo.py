"""The `ppo` algorithm: advantages from a critic by GAE, a clipped policy loss and a clipped value loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.core.errors import StageError
from raylm.rl.algorithms.clipped import Clipped
from raylm.rl.algorithms.shaping import at_drawn, gae, rewards_at, spread, whiten
from raylm.rl.types import CriticInputs, Sample
from raylm.trainer.loss import Loss


class Ppo(Clipped):
    """Proximal policy optimisation (https://arxiv.org/abs/1707.06347) as it is used on language models
    (https://arxiv.org/abs/2203.02155); the critic itself is the stage's `critic` table. The usual penalty is
    `kl = {coefficient = 0.05, in_reward = true}`."""

    kind: Literal["ppo"] = "ppo"
    num_generations: int = Field(default=1, gt=0)
    """Completions per prompt."""
    old_logprobs: Literal["generator", "trainer"] = "trainer"
    """What the ratio compares the policy with: the trainer's own log-probabilities before the first update of the iteration,
    or the generator's."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go above 1."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """A later token's reward counts so much, for each token between."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Between the critic's word alone (0) and the whole return (1)."""
    whiten_rewards: bool = False
    """Scale the rewards at tokens to variance 1 over the iteration."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1 over all tokens of the iteration; returns stay as they are."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far a value may move from what it was before the iteration; a large number clips nothing."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "critic")

    def estimate(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """Advantages and returns of each drawn token. Raises StageError where samples have no values."""
        if lacking := [sample for sample in samples if sample.values is None]:
            raise StageError(
                "a completion came without values of a critic", where=f"algorithm.advantages, prompt {lacking[0].row}"
            )
        reward_BM, mask_BM = rewards_at(samples)
        value_BM = at_drawn(samples, "values", reward_BM.shape[1])
        if self.whiten_rewards:
            reward_BM = whiten(reward_BM, mask_BM, shift=False)
        advantage_BM = gae(reward_BM, value_BM, self.gamma, self.gae_lambda) * mask_BM
        samples = spread(samples, "returns", advantage_BM + value_BM)
        if self.whiten_advantages:
            advantage_BM = whiten(advantage_BM, mask_BM)
        return spread(samples, "advantages", advantage_BM), {}

    def critic_loss(self, inputs: CriticInputs) -> Loss:
        """Sum over drawn tokens of half the squared error of the value, or of the clipped value where that is larger. Metrics:
        `loss`, `clip_ratio`, `value` and `return`, which a trainer calls the critic's."""
        import torch

        value_BT, mask_BT = inputs.value_BT, inputs.mask_BT
        error_BT = (value_BT - inputs.return_BT) ** 2
        near_BT = inputs.old_value_BT + (value_BT - inputs.old_value_BT).clamp(-self.value_clip, self.value_clip)
        clipped_BT = (near_BT - inputs.return_BT) ** 2
        total = 0.5 * (torch.maximum(error_BT, clipped_BT) * mask_BT).sum()
        with torch.no_grad():
            metrics = {
                "loss": total.detach(),
                "clip_ratio": (((clipped_BT > error_BT) & (near_BT - value_BT).abs().gt(1e-6)).float() * mask_BT).sum(),
                "value": (value_BT * mask_BT).sum(),
                "return": (inputs.return_BT * mask_BT).sum(),
            }
        return Loss(total, metrics)
