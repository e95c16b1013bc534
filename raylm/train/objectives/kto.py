"""The `kto` objective: Kahneman-Tversky optimization, which learns from judged answers in place of pairs.

Shapes: R rows (a prompt, an answer and a label each).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.train.objectives.objective import Objective, Passes, reference_sums
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Prepared(NamedTuple):
    """What the loss of a micro batch needs beside the scores."""

    reference_R: Any
    """Log-probability of each answer by the reference."""
    kl: float
    """Estimate of KL(policy, reference) over the whole global batch, in nats, at least 0."""
    per_good: float
    """Rows of the global batch for each good one; NaN where none is good."""
    per_bad: float


class Kto(Objective):
    """Kahneman-Tversky optimisation (https://arxiv.org/abs/2402.01306). With the reward s = beta * log-ratio of an answer to the
    reference's, and z = beta * KL(policy, reference):

    kto                a good answer loses 1 - sigmoid(s - z), a bad one 1 - sigmoid(z - s)
    apo_zero_unpaired  the same with z = 0 (https://arxiv.org/abs/2408.06266)

    The KL is estimated as in the paper (equation 8): from every prompt beside the answer to another row's, over all rows of the
    global batch on all ranks at once, where TRL takes each micro batch for itself. No gradient flows through it.
    """

    rows: ClassVar[tuple[str, ...]] = ("Unpaired",)
    needs: ClassVar[tuple[str, ...]] = ("reference", "mismatched")
    # the policy that learns, the policy and the reference on other rows' answers, the reference
    num_passes: ClassVar[int] = 4
    unit: ClassVar[str] = "answers"
    padding_free: ClassVar[bool] = True
    no_store: ClassVar[str] = "asks its reference about answers beside other prompts, which each batch mixes anew"
    # as in DPO: of equal weights every reward is 0
    drops: ClassVar[bool] = False

    kind: Literal["kto"] = "kto"
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """The loss of an answer, see above; the names are TRL's."""
    beta: float = Field(default=0.1, gt=0)
    """How hard the policy is held to the reference; smaller lets it go further."""
    desirable_weight: float = Field(default=1.0, ge=0)
    """Weight of good answers. The paper takes weights with which good and bad answers weigh 1 to 4/3 against each other:
    (desirable_weight * good rows) / (undesirable_weight * bad rows)."""
    undesirable_weight: float = Field(default=1.0, ge=0)
    """Weight of bad answers."""

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        return float(batch.row_weight_P.sum())

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[Prepared]:
        good = sum(float((batch.columns["label"] * batch.row_weight_P).sum()) for batch in batches)
        rows, good = passes.sum([sum(float(batch.row_weight_P.sum()) for batch in batches), good])
        counts = (rows / good if good else float("nan"), rows / (rows - good) if rows > good else float("nan"))
        kl = self._kl(batches, rows, passes) if self.loss_type == "kto" else 0.0
        return [Prepared(sum_R, kl, *counts) for sum_R in reference_sums(batches, inputs, passes)]

    def _kl(self, batches: Sequence[Batch], rows: float, passes: Passes) -> float:
        if rows < 2:
            raise ConfigError("KTO estimates its KL from other rows of the batch, and there is one row", next="raise batch")
        others = [batch.mismatched for batch in batches if batch.mismatched is not None]
        assert len(others) == len(batches), "batches come without mismatched rows"
        inputs = [self.inputs(batch, 0) for batch in others]
        parts = zip(others, inputs, passes.policy(inputs), reference_sums(others, inputs, passes), strict=True)
        # rows that only fill up a rank's share have no token that counts: 0 in both
        ratios = [batch.sums(scores.logprob_BT * one.weight_BT) - sum_R for batch, one, scores, sum_R in parts]
        (total,) = passes.sum([sum(float(ratio_R.sum()) for ratio_R in ratios)])
        return max(total / rows, 0.0)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Prepared | None = None) -> Loss:
        """Sum over rows. `chosen_reward` is the mean reward of good answers, `rejected_reward` that of bad ones, `margin` their
        difference, each NaN where a batch has none; `accuracy` is the share of answers whose reward lies on their label's side
        of z (in TRL the two are compared in pairs only), a tie counts half."""
        assert prepared is not None
        good_R, weight_R = batch.columns["label"].float(), batch.row_weight_P
        reward_R = self.beta * (batch.sums(scores.logprob_BT * inputs.weight_BT) - prepared.reference_R)
        # positive where the answer is on the side of its label
        side_R = (2 * good_R - 1) * (reward_R - self.beta * prepared.kl)
        worth_R = self.desirable_weight * good_R + self.undesirable_weight * (1 - good_R)
        losses_R = (1 - side_R.sigmoid()) * worth_R * weight_R
        of_R = reward_R.detach() * weight_R
        chosen, rejected = (of_R * good_R).sum() * prepared.per_good, (of_R * (1 - good_R)).sum() * prepared.per_bad
        metrics = {
            "loss": losses_R.detach().sum(),
            "accuracy": ((0.5 + 0.5 * side_R.detach().sign()) * weight_R).sum(),
            "margin": chosen - rejected,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "kl": prepared.kl * weight_R.sum(),
        }
        return Loss(losses_R.sum(), metrics)
