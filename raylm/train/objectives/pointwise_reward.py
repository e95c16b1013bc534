"""The `pointwise_reward` objective: a reward model from answers that were judged one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raylm.core.errors import ConfigError
from raylm.train.objectives.objective import Objective
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores


class PointwiseReward(Objective):
    """A reward model from single labels: Unpaired (good or bad), or Labelled without classes (a score for each text).

    bce  -y log sigmoid(r) - (1 - y) log sigmoid(-r): the reward is the log odds that an answer is good; y true or false, or a
         probability from 0 to 1 (verifiers, https://arxiv.org/abs/2110.14168)
    mse  (r - y)^2: the reward is the score itself (HelpSteer, https://arxiv.org/abs/2311.09528)
    """

    rows: ClassVar[tuple[str, ...]] = ("Unpaired", "Labelled")
    unit: ClassVar[str] = "answers"
    makes: ClassVar[str] = "reward"

    kind: Literal["pointwise_reward"] = "pointwise_reward"
    loss_type: Literal["bce", "mse"] = "bce"
    """The loss of an answer, see above."""

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        from raylm.model.scores import last_token

        return last_token(batch)

    def asks(self) -> Asks:
        from raylm.model.head import Asks

        return Asks(values=True)

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        return float(batch.row_weight_P.sum())

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Any = None) -> Loss:
        """Sum over answers. `accuracy` of bce: the share of answers whose reward has the sign of their label, a tie counts half;
        `absolute_error` of mse: the mean distance of reward and score."""
        import torch

        reward_P, label_P, weight_P = batch.sums(scores.value_BT), batch.columns["label"].float(), batch.row_weight_P
        if self.loss_type == "bce":
            if bool(((label_P < 0) | (label_P > 1)).any()):
                raise ConfigError(
                    "bce takes labels from 0 to 1, the rows have others",
                    next="objective.loss_type = 'mse', or scale the scores",
                )
            losses_P = torch.nn.functional.binary_cross_entropy_with_logits(reward_P, label_P, reduction="none")
            side_P = reward_P.detach().sign() * (2 * label_P - 1).sign()
            metrics = {"accuracy": 0.5 + 0.5 * side_P}
        else:
            losses_P = (reward_P - label_P).square()
            metrics = {"absolute_error": (reward_P.detach() - label_P).abs()}
        total = (losses_P * weight_P).sum()
        return Loss(total, {"loss": total.detach()} | {name: (value * weight_P).sum() for name, value in metrics.items()})
