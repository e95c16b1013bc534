"""The `cpo` objective: contrastive preference optimization, DPO without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raylm.train.objectives.objective import Passes
from raylm.train.objectives.pairwise import Pairwise, answers_of, nll_of, pair_loss, pairs_per_token, smoothed, with_nll
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Cpo(Pairwise):
    """Contrastive preference optimisation (https://arxiv.org/abs/2401.08417): DPO's loss with an even reference, and the NLL of
    chosen answers, which holds the policy in the reference's place. With d = log p(chosen) - log p(rejected):

    sigmoid  -log sigmoid(beta d), with `label_smoothing` the conservative one
    hinge    max(0, 1 - beta d) (SLiC, https://arxiv.org/abs/2305.10425)
    ipo      (d per token - 1 / (2 beta))^2 (https://arxiv.org/abs/2310.12036)
    """

    kind: Literal["cpo"] = "cpo"
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """The loss of a pair, see above; the names are TRL's."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the log-probabilities in the loss of a pair."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a label is wrong: of `sigmoid`."""
    cpo_alpha: float = Field(default=1.0, ge=0)
    """Weight of the NLL of chosen answers: the mean over their tokens in the global batch."""

    @model_validator(mode="after")
    def _smooths(self) -> Cpo:
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError(f"label_smoothing changes nothing in the loss {self.loss_type!r}: drop one of the two")
        return self

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[float]:
        return [pairs_per_token(batches, inputs, passes)] * len(batches)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: float | None = None) -> Loss:
        """Sum over pairs. Rewards are beta times the log-probability (of `ipo`: per token).

        Args:
            batch: P chosen answers first, then the P rejected ones.
            prepared: `pairs_per_token` of the global batch.
        """
        assert prepared is not None
        answers = answers_of(scores, inputs, batch)
        compared_S = answers.mean_S if self.loss_type == "ipo" else answers.logprob_S
        chosen_P, rejected_P = compared_S.chunk(2)
        if self.loss_type == "ipo":
            losses_P = (chosen_P - rejected_P - 1 / (2 * self.beta)).square()
        elif self.loss_type == "hinge":
            losses_P = (1 - self.beta * (chosen_P - rejected_P)).relu()
        else:
            losses_P = smoothed(self.beta * (chosen_P - rejected_P), self.label_smoothing)
        made = pair_loss(losses_P, (self.beta * compared_S).chunk(2), batch)
        return with_nll(made, nll_of(answers, prepared), self.cpo_alpha) if self.cpo_alpha else made
