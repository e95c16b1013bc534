"""The `simpo` objective: simple preference optimization, length-normalised and without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.train.objectives.objective import Passes
from raylm.train.objectives.pairwise import Pairwise, answers_of, nll_of, pair_loss, pairs_per_token, smoothed, with_nll
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Simpo(Pairwise):
    """Simple preference optimisation (https://arxiv.org/abs/2405.14734): -log sigmoid(beta (c - r) - gamma) of the
    log-probabilities per token c and r of the chosen and the rejected answer."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0)
    """Scale of the log-probabilities per token; the paper takes 2.0 to 10."""
    gamma: float = Field(default=1.0, ge=0)
    """Margin by which the chosen answer's reward is to win; the paper takes 0.3 to 0.5 times beta (and TRL `simpo_gamma`)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a label is wrong."""
    cpo_alpha: float = Field(default=0.0, ge=0)
    """Weight of the NLL of chosen answers, the mean over their tokens in the global batch (CPO-SimPO,
    https://github.com/fe1ixxu/CPO_SIMPO); 0 mixes in none."""

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[float]:
        return [pairs_per_token(batches, inputs, passes) if self.cpo_alpha else 0.0] * len(batches)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: float | None = None) -> Loss:
        """Sum over pairs. Rewards are beta times the log-probability per token; the margin is without gamma.

        Args:
            batch: P chosen answers first, then the P rejected ones.
            prepared: `pairs_per_token` of the global batch.
        """
        assert prepared is not None
        answers = answers_of(scores, inputs, batch)
        chosen_P, rejected_P = (self.beta * answers.mean_S).chunk(2)
        losses_P = smoothed(chosen_P - rejected_P - self.gamma, self.label_smoothing)
        made = pair_loss(losses_P, (chosen_P, rejected_P), batch)
        return with_nll(made, nll_of(answers, prepared), self.cpo_alpha) if self.cpo_alpha else made
