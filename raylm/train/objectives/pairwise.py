"""What the losses over preference pairs share: a pair's two scores, its metrics, the likelihood of chosen answers beside them.

Shapes: B sequences, T tokens, S answers (P chosen ones first, then the P rejected ones), P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from raylm.train.objectives.objective import Objective, Passes
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    import torch

    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


ROUNDING = 1e-6
"""Below it a margin is none."""


class Answers(NamedTuple):
    """What a model says of the answers of a batch."""

    logprob_S: torch.Tensor
    """Log-probability of each answer, in nats."""
    length_S: torch.Tensor
    """Tokens of each answer that count; at least 1."""

    @property
    def mean_S(self) -> torch.Tensor:
        """Log-probability per token: what length-normalised losses compare."""
        return self.logprob_S / self.length_S


class Pairwise(Objective):
    """A loss over pairs. It is the mean over the pairs of the global batch; the negative log-likelihood (NLL) of chosen answers,
    where it is mixed in, is the mean over their tokens in the global batch: neither depends on ranks and micro batches, where
    a mean of each micro batch's mean (TRL) does as soon as lengths differ."""

    rows: ClassVar[tuple[str, ...]] = ("Pairs",)
    unit: ClassVar[str] = "pairs"
    padding_free: ClassVar[bool] = True

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        return float(batch.row_weight_P.sum())


def answers_of(scores: Scores, inputs: Inputs, batch: Batch) -> Answers:
    """Log-probability and length of each answer."""
    lengths_S = batch.sums(inputs.weight_BT)
    return Answers(batch.sums(scores.logprob_BT * inputs.weight_BT), lengths_S.clamp(min=1.0))


def pairs_per_token(batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> float:
    """Pairs of the global batch for each token of its chosen answers: times it, a sum over tokens is divided by the number of
    tokens where a loss is divided by the number of pairs. Ranks meet: every rank must call."""
    tokens = sum(float(batch.sums(one.weight_BT).chunk(2)[0].sum()) for batch, one in zip(batches, inputs, strict=True))
    pairs, tokens = passes.sum([sum(float(batch.row_weight_P.sum()) for batch in batches), tokens])
    return pairs / tokens if tokens else 0.0


def nll_of(answers: Answers, per_token: float) -> torch.Tensor:
    """Negative log-likelihood of the chosen answers: the sum over tokens times `pairs_per_token`, a number."""
    # answers that only fill up a rank's share have no token that counts
    return -answers.logprob_S.chunk(2)[0].sum() * per_token


def pair_loss(losses_P: torch.Tensor, rewards: Sequence[torch.Tensor], batch: Batch) -> Loss:
    """Sum of the losses of real pairs, and what the field says of them.

    Args:
        rewards: of the chosen answers and of the rejected ones, [P] each: `chosen_reward` and `rejected_reward`, with their
            difference `margin` and the share of pairs in which it is positive, `accuracy`. (TRL: rewards/chosen,
            rewards/rejected, rewards/margins, rewards/accuracies.)
    """
    chosen_P, rejected_P = (each.detach() for each in rewards)
    weight_P, margin_P = batch.row_weight_P, chosen_P - rejected_P
    values = {
        "loss": losses_P.detach(),
        # ties count half: before the first step of DPO every margin is 0 (beside stored scores: rounding), and that is chance
        "accuracy": 0.5 + 0.5 * margin_P.sign() * (margin_P.abs() > ROUNDING),
        "margin": margin_P,
        "chosen_reward": chosen_P,
        "rejected_reward": rejected_P,
    }
    return Loss((losses_P * weight_P).sum(), {name: (value * weight_P).sum() for name, value in values.items()})


def with_nll(loss: Loss, nll: torch.Tensor, weight: float) -> Loss:
    """`loss` plus `weight` times the NLL; the metric `nll` is without that weight."""
    metrics = loss.metrics | {"loss": loss.metrics["loss"] + weight * nll.detach(), "nll": nll.detach()}
    return Loss(loss.total + weight * nll, metrics)


def smoothed(margin_P: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """-log sigmoid(margin) where a label is wrong with probability `label_smoothing`
    (conservative DPO, https://ericmitchell.ai/cdpo.pdf)."""
    from torch.nn.functional import logsigmoid

    return -(1 - label_smoothing) * logsigmoid(margin_P) - label_smoothing * logsigmoid(-margin_P)
