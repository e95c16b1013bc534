"""The `grpo` algorithm: advantages within each group of completions, and a clipped policy loss.

Shapes: B completions, T tokens of prompt and completion.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.rl.types import Experience, LossInputs, Sample
from raylm.trainer.loss import Loss


class Grpo(Config):
    """Group relative policy optimisation (https://arxiv.org/abs/2402.03300), normalised over all tokens of the global
    batch (https://arxiv.org/abs/2503.14476) and without a value model."""

    renamed = {"group": "num_generations", "scale_by_deviation": "scale_rewards"}
    needs: ClassVar[tuple[str, ...]] = ()

    kind: Literal["grpo"] = "grpo"
    num_generations: int = Field(default=8, gt=1)
    """Completions per prompt, compared with each other."""
    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go below 1."""
    clip_high: float = Field(default=0.28, gt=0)
    """How far it may go above 1."""
    scale_rewards: bool = True
    """Divide advantages by the group's standard deviation (GRPO); false only centres them (Dr. GRPO)."""

    def advantages(self, experience: Experience) -> Experience:
        """Each reward against the mean of its group, equal for all tokens of a completion. Groups of equal rewards teach nothing
        and are left out."""
        groups: dict[int, list[Sample]] = {}
        for sample in experience.samples:
            groups.setdefault(sample.row, []).append(sample)
        kept: list[Sample] = []
        for members in groups.values():
            rewards = [member.reward for member in members]
            # not `deviation == 0`: the mean of equal rewards may be off by a rounding, and that would teach noise
            if max(rewards) == min(rewards):
                continue
            mean = sum(rewards) / len(rewards)
            deviation = (sum((reward - mean) ** 2 for reward in rewards) / max(len(rewards) - 1, 1)) ** 0.5
            scale = deviation + 1e-4 if self.scale_rewards else 1.0
            kept += [one._replace(advantages=[(one.reward - mean) / scale] * len(one.logprobs)) for one in members]
        return experience._replace(samples=kept)

    def loss(self, inputs: LossInputs) -> Loss:
        """Sum over completion tokens of -min(ratio * A, clip(ratio) * A)."""
        import torch

        logprob_BT, old_BT, advantage_BT, mask_BT = inputs.logprob_BT, inputs.old_BT, inputs.advantage_BT, inputs.mask_BT
        ratio_BT = torch.exp((logprob_BT - old_BT).clamp(-20.0, 20.0))
        clipped_BT = ratio_BT.clamp(1.0 - self.clip, 1.0 + self.clip_high)
        gain_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
        total = -(gain_BT * mask_BT).sum()
        with torch.no_grad():
            metrics = {
                "loss": total.detach(),
                "clip_ratio": ((ratio_BT != clipped_BT).float() * mask_BT).sum(),
                # low-variance estimate of KL(generator || trainer): 0 before the first update when both hold the same weights
                "mismatch_kl": ((ratio_BT - 1.0 - (logprob_BT - old_BT)) * mask_BT).sum(),
                "nll": -(logprob_BT * mask_BT).sum(),
            }
        return Loss(total, metrics)
