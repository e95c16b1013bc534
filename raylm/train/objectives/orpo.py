"""The `orpo` objective: odds ratio preference optimization, which needs no reference and no fine-tuning before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raylm.train.objectives.objective import Passes
from raylm.train.objectives.pairwise import Pairwise, answers_of, nll_of, pair_loss, pairs_per_token, with_nll
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    import torch

    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Orpo(Pairwise):
    """Odds ratio preference optimisation (https://arxiv.org/abs/2403.07691): the NLL of the chosen answer, and beside it
    -beta log sigmoid(log odds of the chosen - log odds of the rejected answer), odds p / (1 - p) of the mean probability of a
    token.

    The NLL is of the answer's tokens, as in the paper; TRL's is of the prompt's too.
    """

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds ratio beside the NLL (the paper's lambda)."""

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[float]:
        return [pairs_per_token(batches, inputs, passes)] * len(batches)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: float | None = None) -> Loss:
        """Sum over pairs. Rewards are beta times the log-probability per token.

        Args:
            batch: P chosen answers first, then the P rejected ones.
            prepared: `pairs_per_token` of the global batch.
        """
        from torch.nn.functional import logsigmoid

        assert prepared is not None
        answers = answers_of(scores, inputs, batch)
        chosen_P, rejected_P = (answers.mean_S - log1mexp(answers.mean_S)).chunk(2)
        losses_P = -self.beta * logsigmoid(chosen_P - rejected_P)
        made = pair_loss(losses_P, (self.beta * answers.mean_S).chunk(2), batch)
        made.metrics["log_odds"] = ((chosen_P - rejected_P).detach() * batch.row_weight_P).sum()
        return with_nll(made, nll_of(answers, prepared), 1.0)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) of x < 0, exact near 0 and far from it (Maechler, 2012)."""
    import torch

    # an answer of probability 1 has no odds: it counts as one that is all but certain
    x = x.clamp(max=-1e-7)
    return torch.where(x > -math.log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
