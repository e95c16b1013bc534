"""The `grpo` algorithm: advantages within each group of completions, and a clipped policy loss.

Shapes: B completions, T tokens of prompt and completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.rl.types import Loss, Rollout, Sample

if TYPE_CHECKING:
    import torch


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

    def advantages(self, rollouts: list[Rollout]) -> list[Sample]:
        """One sample per scored rollout: its score against the mean of its group. Groups of equal scores teach nothing
        and are left out."""
        groups: dict[int, list[Rollout]] = {}
        for rollout in rollouts:
            if rollout.score is not None:
                groups.setdefault(rollout.prompt.row, []).append(rollout)
        samples = []
        for members in groups.values():
            values = [member.score.value for member in members if member.score]
            mean = sum(values) / len(values)
            deviation = (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5
            # not `deviation == 0`: the mean of equal scores may be off by a rounding, and that would teach noise
            if max(values) == min(values):
                continue
            scale = deviation + 1e-4 if self.scale_rewards else 1.0
            samples += [
                Sample(
                    [*member.prompt.tokens, *member.tokens], len(member.prompt.tokens), member.logprobs, (value - mean) / scale
                )
                for member, value in zip(members, values, strict=True)
            ]
        return samples

    def loss(self, logprob_BT: torch.Tensor, old_BT: torch.Tensor, advantage_B: torch.Tensor, mask_BT: torch.Tensor) -> Loss:
        """Sum over completion tokens of -min(ratio * A, clip(ratio) * A).

        Args:
            logprob_BT: the trainer's log-probabilities, with gradient.
            old_BT: the generator's.
            mask_BT: 1 on completion tokens.
        """
        import torch

        ratio_BT = torch.exp((logprob_BT - old_BT).clamp(-20.0, 20.0))
        clipped_BT = ratio_BT.clamp(1.0 - self.clip, 1.0 + self.clip_high)
        advantage_BT = advantage_B[:, None].expand_as(ratio_BT)
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
