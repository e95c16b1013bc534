"""The `distill` algorithm: a student learns a teacher's distributions on what it draws itself (on-policy distillation).

Shapes: B completions, T tokens of prompt and completion.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, Refers
from raylm.rl.types import Experience, LossInputs
from raylm.trainer.loss import Loss


class Distill(Config):
    """GKD with the student's samples alone (https://arxiv.org/abs/2306.13649): at each token that the student drew it is moved
    towards the teacher's distribution. No gradient passes through the draw, and no reward is needed: rewards are reported."""

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    rewarded: ClassVar[bool] = False

    kind: Literal["distill"] = "distill"
    teacher: Annotated[str, Refers(("Checkpoint",), ("causal",))]
    """The model that is learned from: a stage, a folder, a hub name. It must have the tokenizer of the prompts."""
    teacher_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the teacher's weights; `auto`: bfloat16, or float32 where the stage computes in float32."""
    top_k: int = Field(default=64, gt=0)
    """The teacher's likeliest tokens that are told apart at each position; all others are one class."""
    divergence: Literal["forward", "reverse", "jsd"] = "reverse"
    """`reverse`: KL(student || teacher), `forward`: KL(teacher || student), `jsd`: between them, by `beta`."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Of `jsd`: weight of the teacher in the mixture that both are compared with."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Logits of both are divided by it before they are compared, and the divergence is multiplied by its square. The draw has the
    stage's own `temperature`."""
    num_generations: int = Field(default=1, gt=0)
    """Completions per prompt."""

    def advantages(self, experience: Experience) -> Experience:
        """Every sample teaches: its advantages are 0, and not read."""
        return experience._replace(samples=[one._replace(advantages=[0.0] * len(one.logprobs)) for one in experience.samples])

    def loss(self, inputs: LossInputs) -> Loss:
        """Sum over completion tokens of `temperature ** 2` times the divergence.

        Metrics: `divergence`; `teacher_share`, the teacher's probability of the tokens that are told apart; `mismatch_kl` and
        `nll` as of grpo.
        """
        import torch

        from raylm.model.divergence import divergence

        taught, scores, mask_BT = inputs.taught, inputs.scores, inputs.mask_BT
        assert taught is not None and scores is not None
        student = torch.cat([scores.rest_logprob_BT[..., None], scores.at_logprob_BTK], -1)
        teacher = torch.cat([taught.rest_logprob_BT[..., None], taught.logprob_BTK], -1)
        apart = (divergence(student, teacher, self.divergence, self.beta) * mask_BT).sum()
        total = self.temperature**2 * apart
        with torch.no_grad():
            gap_BT = inputs.logprob_BT - inputs.old_BT
            metrics = {
                "loss": total.detach(),
                "divergence": apart.detach(),
                "teacher_share": (taught.logprob_BTK.exp().sum(-1) * mask_BT).sum(),
                "mismatch_kl": ((gap_BT.clamp(-20.0, 20.0).exp() - 1.0 - gap_BT) * mask_BT).sum(),
                "nll": -(inputs.logprob_BT * mask_BT).sum(),
            }
        return Loss(total, metrics)
