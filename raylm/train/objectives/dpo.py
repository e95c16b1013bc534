"""The `dpo` objective: direct preference optimization, and its variants that compare with a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from raylm.train.objectives.objective import Passes, reference_sums
from raylm.train.objectives.pairwise import Pairwise, answers_of, nll_of, pair_loss, pairs_per_token, smoothed, with_nll
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    import torch

    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores


class Prepared(NamedTuple):
    """What the loss of a micro batch needs beside the scores."""

    reference_S: Any
    """Log-probability of each answer by the reference."""
    pairs_per_token: float = 0.0
    """Of the global batch, see `raylm.train.objectives.pairwise`."""


class Dpo(Pairwise):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290).

    With c and r the log-ratios log p(answer) - log p_reference(answer) of the chosen and the rejected answer, and d = c - r:

    sigmoid       -log sigmoid(beta d); with `label_smoothing` conservative DPO (https://ericmitchell.ai/cdpo.pdf)
    sigmoid_norm  the same with c and r per token, so that long answers weigh no more (https://arxiv.org/abs/2405.14734, Table 3;
                  Tulu 3, https://arxiv.org/abs/2411.15124)
    hinge         max(0, 1 - beta d) (SLiC, https://arxiv.org/abs/2305.10425, with a reference: https://arxiv.org/abs/2309.06657)
    ipo           (d per token - 1 / (2 beta))^2, which cannot run away where labels are certain (https://arxiv.org/abs/2310.12036)
    robust        unbiased where a share `label_smoothing` of the labels is wrong (https://arxiv.org/abs/2403.00409)
    exo_pair      reverse KL to labels that are wrong with probability `label_smoothing` (https://arxiv.org/abs/2402.00856)
    nca_pair      each answer alone against the reference, so that the chosen one's likelihood does not fall
                  (https://arxiv.org/abs/2402.05369)
    sppo_hard     c towards 1 / (2 beta) and r towards -1 / (2 beta) (https://arxiv.org/abs/2405.00675)
    apo_zero      raises c and lowers r: where chosen answers are better than the model's own (https://arxiv.org/abs/2408.06266)
    apo_down      lowers both, r more: where chosen answers are worse than the model's own (the same paper)
    """

    needs: ClassVar[tuple[str, ...]] = ("reference",)
    num_passes: ClassVar[int] = 2
    stores_reference: ClassVar[bool] = True
    # the margin compares the policy with a reference that drops nothing out: of equal weights it is 0, as in TRL
    drops: ClassVar[bool] = False

    kind: Literal["dpo"] = "dpo"
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"
    ] = "sigmoid"
    """The loss of a pair, see above; the names are TRL's."""
    beta: float = Field(default=0.1, gt=0)
    """How hard the policy is held to the reference; smaller lets it go further. `ipo` and `sigmoid_norm` compare log-ratios per
    token: theirs is larger (sigmoid_norm: 2 to 10)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a label is wrong: of `sigmoid`, `sigmoid_norm`, `robust` and `exo_pair`, which needs one."""
    rpo_alpha: float = Field(default=0.0, ge=0)
    """Weight of the NLL of chosen answers beside the loss, which keeps them likely (RPO, https://arxiv.org/abs/2404.19733); 0
    mixes in none. The NLL is the mean over their tokens in the global batch."""

    @model_validator(mode="after")
    def _smooths(self) -> Dpo:
        if self.label_smoothing and self.loss_type not in ("sigmoid", "sigmoid_norm", "robust", "exo_pair"):
            raise ValueError(f"label_smoothing changes nothing in the loss {self.loss_type!r}: drop one of the two")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss 'exo_pair' needs label_smoothing above 0, such as 1e-3")
        return self

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[Prepared]:
        per_token = pairs_per_token(batches, inputs, passes) if self.rpo_alpha else 0.0
        return [Prepared(sum_S, per_token) for sum_S in reference_sums(batches, inputs, passes)]

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Prepared | None = None) -> Loss:
        """Sum over pairs. Rewards are beta times the log-ratios of whole answers, whatever the loss compares.

        Args:
            batch: P chosen answers first, then the P rejected ones.
        """
        assert prepared is not None
        answers = answers_of(scores, inputs, batch)
        ratio_S = answers.logprob_S - prepared.reference_S
        compared_S = ratio_S / answers.length_S if self.loss_type in ("ipo", "sigmoid_norm") else ratio_S
        chosen_P, rejected_P = compared_S.chunk(2)
        losses_P = _LOSSES[self.loss_type](chosen_P, rejected_P, self.beta, self.label_smoothing)
        made = pair_loss(losses_P, (self.beta * ratio_S).chunk(2), batch)
        return with_nll(made, nll_of(answers, prepared.pairs_per_token), self.rpo_alpha) if self.rpo_alpha else made


def _sigmoid(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return smoothed(beta * (c - r), smoothing)


def _hinge(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return (1 - beta * (c - r)).relu()


def _ipo(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return (c - r - 1 / (2 * beta)).square()


def _robust(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    from torch.nn.functional import logsigmoid

    margin = beta * (c - r)
    return (smoothing * logsigmoid(-margin) - (1 - smoothing) * logsigmoid(margin)) / (1 - 2 * smoothing)


def _exo_pair(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    import math

    from torch.nn.functional import logsigmoid

    # KL of (sigmoid, 1 - sigmoid) to (1 - smoothing, smoothing)
    margin = beta * (c - r)
    right, wrong = logsigmoid(margin), logsigmoid(-margin)
    return right.exp() * (right - math.log1p(-smoothing)) + wrong.exp() * (wrong - math.log(smoothing))


def _nca_pair(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * c) - 0.5 * logsigmoid(-beta * c) - 0.5 * logsigmoid(-beta * r)


def _sppo_hard(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return (c - 0.5 / beta).square() + (r + 0.5 / beta).square()


def _apo_zero(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return 1 - (beta * c).sigmoid() + (beta * r).sigmoid()


def _apo_down(c: torch.Tensor, r: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    return (beta * c).sigmoid() + 1 - (beta * (c - r)).sigmoid()


_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
}
