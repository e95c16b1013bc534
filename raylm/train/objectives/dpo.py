"""The `dpo` objective: direct preference optimization."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.train.objectives.objective import Objective
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Dpo(Objective):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290), sigmoid loss."""

    rows: ClassVar[tuple[str, ...]] = ("Pairs",)
    needs: ClassVar[tuple[str, ...]] = ("reference",)
    num_passes: ClassVar[int] = 2
    unit: ClassVar[str] = "pairs"
    # the margin compares the policy with a reference that drops nothing out: of equal weights it is 0, as in TRL
    drops: ClassVar[bool] = False

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """How hard the policy is held to the reference; smaller lets it go further."""

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        return float(batch.row_weight_P.sum())

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Scores | None = None) -> Loss:
        """Sum over pairs of -log sigmoid(beta * margin).

        Args:
            batch: 2P sequences, the P chosen answers first, then the P rejected ones.
            prepared: the scores of the same tokens by the frozen reference.
        """
        import torch

        assert prepared is not None
        reward_S = self.beta * batch.sums((scores.logprob_BT - prepared.logprob_BT) * inputs.weight_BT)
        chosen_P, rejected_P = reward_S.chunk(2)
        margin_P = chosen_P - rejected_P
        losses_P = -torch.nn.functional.logsigmoid(margin_P) * batch.row_weight_P
        metrics = {
            "loss": losses_P,
            # ties count half: before the first step every margin is 0, and that is chance
            "accuracy": (0.5 + 0.5 * margin_P.sign()) * batch.row_weight_P,
            "margin": margin_P * batch.row_weight_P,
            "chosen_reward": chosen_P * batch.row_weight_P,
            "rejected_reward": rejected_P * batch.row_weight_P,
        }
        return Loss(losses_P.sum(), {name: values.detach().sum() for name, values in metrics.items()})
