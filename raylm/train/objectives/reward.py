"""The `reward` objective: a reward model from preference pairs (Bradley-Terry)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.train.objectives.pairwise import Pairwise, pair_loss
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores


class Reward(Pairwise):
    """A reward model (Bradley-Terry, https://arxiv.org/abs/2203.02155 section 3.5): -log sigmoid(r(chosen) - r(rejected) - m).
    The reward is what a value head says at the last token of prompt and answer, as transformers' own sequence classification
    with one label does.

    m is the pair's `margin` where the rows have that column (form `pairs` with `margin`): by how much the chosen answer is
    better (Llama 2, https://arxiv.org/abs/2307.09288 section 3.2.2); 0 where they have none.
    """

    makes: ClassVar[str] = "reward"

    kind: Literal["reward"] = "reward"
    center_rewards_coefficient: float = Field(default=0.0, ge=0)
    """Weight of (r(chosen) + r(rejected))^2, which keeps rewards around 0 (https://arxiv.org/abs/2312.09244 takes 0.01); the
    loss of a pair sees their difference alone."""

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        from raylm.model.scores import last_token

        return last_token(batch)

    def asks(self) -> Asks:
        from raylm.model.head import Asks

        return Asks(values=True)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Any = None) -> Loss:
        """Sum over pairs.

        Args:
            batch: P chosen answers first, then the P rejected ones.
        """
        from torch.nn.functional import logsigmoid

        chosen_P, rejected_P = batch.sums(scores.value_BT).chunk(2)
        losses_P = -logsigmoid(chosen_P - rejected_P - batch.columns.get("margin", 0.0))
        if self.center_rewards_coefficient:
            losses_P = losses_P + self.center_rewards_coefficient * (chosen_P + rejected_P).square()
        return pair_loss(losses_P, (chosen_P, rejected_P), batch)
