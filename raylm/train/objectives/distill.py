"""The `distill` objective: a student learns the distributions of a teacher over the tokens of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from raylm.core.config import Refers
from raylm.core.errors import ConfigError
from raylm.train.objectives.objective import Objective, Passes
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores
    from raylm.trainer.setup import Setup
    from raylm.trainer.teacher_scores import TeacherScorer


class Distill(Objective):
    """Knowledge distillation (https://arxiv.org/abs/1503.02531) on Tokens, or on what counts of Dialogues, over the teacher's
    likeliest tokens and all others as one class; with the divergences of GKD (https://arxiv.org/abs/2306.13649).

    The loss of a token is `alpha * temperature ** 2 * divergence + (1 - alpha) * -log p`.
    """

    rows: ClassVar[tuple[str, ...]] = ("Tokens", "Dialogues")
    needs: ClassVar[tuple[str, ...]] = ("teacher", "tokenizer")

    kind: Literal["distill"] = "distill"
    teacher: Annotated[str, Refers(("Checkpoint",), ("causal",))]
    """The model that is learned from: a stage, a folder, a hub name. It must have the tokenizer of the rows."""
    teacher_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the teacher's weights; `auto`: bfloat16, or float32 where the stage computes in float32."""
    top_k: int = Field(default=64, gt=0)
    """The teacher's likeliest tokens that are told apart at each position; all others are one class. The size of the vocabulary
    is exact."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """`forward`: KL(teacher || student), `reverse`: KL(student || teacher), `jsd`: between them, by `beta`."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Of `jsd`: weight of the teacher in the mixture that both are compared with."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Logits of both are divided by it before they are compared. Gradients shrink with its square, and so the divergence is
    multiplied by that: `alpha` means the same at any temperature."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the divergence; the cross-entropy of the row's own tokens has the rest."""

    teacher_scores: Literal["live", "workers", "stored"] = "live"
    """`live`: the teacher lies beside the student on the ranks of the stage, laid out as it is. `workers`: it lies on `scorers`,
    which answer the rows of the next step while the student learns from those of this one. `stored`: they answer all rows before
    training; what they said is kept and read by later runs that ask the same. The numbers are the same."""

    _words: int = PrivateAttr(0)

    def fitted(self, rows_kind: str, tokenizer: Any) -> Distill:
        made = self.model_copy()
        # an output layer may have more rows than a tokenizer has tokens, and the two models not equally many
        made._words = len(tokenizer)
        return made

    @property
    def classes(self) -> int:
        """Tokens that are told apart."""
        if not self._words:
            raise ConfigError("distill was not fitted to a tokenizer")
        return min(self.top_k, self._words)

    def scores_ahead(self) -> bool:
        return self.teacher_scores == "stored"

    def scores_beside(self) -> bool:
        return self.teacher_scores == "workers"

    def scorer(self, setup: Setup, document_mask: bool) -> TeacherScorer:
        from raylm.trainer.stored_scores import content_of
        from raylm.trainer.teacher_scores import TeacherScorer

        assert setup.teacher is not None
        words = setup.tokens["vocab_size"]
        return TeacherScorer(
            path=setup.teacher.path,
            content=content_of(setup.teacher.path),
            dtype=setup.teacher.dtype,
            rows_kind=setup.rows_kind,
            document_mask=document_mask,
            num_classes=min(self.top_k, words),
            words=words,
            temperature=self.temperature,
        )

    def complete(self, batches: Sequence[Batch], passes: Passes) -> Sequence[Batch]:
        from raylm.model.scores import causal
        from raylm.trainer.teacher_scores import asked, read, taught

        if passes.teacher is None:
            return [batch._replace(taught=read(batch, self.classes)) for batch in batches]
        answers = passes.teacher([causal(batch) for batch in batches], asked(self.classes, self._words, self.temperature))
        return [batch._replace(taught=taught(each)) for batch, each in zip(batches, answers, strict=True)]

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        made = super().inputs(batch, seed)
        # of a batch that is not `complete` the target's log-probability alone can be asked
        return made._replace(id_BTK=batch.taught.id_BTK) if batch.taught else made

    def asks(self) -> Asks:
        from raylm.model.head import Asks

        return Asks(at_ids=self.classes, at_temperature=self.temperature)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: None = None) -> Loss:
        """Sums over the tokens that count, in nats.

        Metrics: `divergence` and `label_loss` (-log p of the row's own tokens, without temperature) are the parts of `loss`
        before they are weighed; `teacher_share` is the teacher's probability of the tokens that are told apart.
        """
        import torch

        from raylm.model.divergence import divergence

        taught, weight_BT = batch.taught, inputs.weight_BT
        assert taught is not None
        student, teacher = (
            torch.cat([rest_BT[..., None], at_BTK], -1)
            for rest_BT, at_BTK in (
                (scores.rest_logprob_BT, scores.at_logprob_BTK),
                (taught.rest_logprob_BT, taught.logprob_BTK),
            )
        )
        apart = (divergence(student, teacher, self.divergence, self.beta) * weight_BT).sum()
        labels = -(scores.logprob_BT * weight_BT).sum()
        total = self.alpha * self.temperature**2 * apart + (1.0 - self.alpha) * labels
        told = (taught.logprob_BTK.exp().sum(-1) * weight_BT).sum()
        metrics = {"loss": total, "divergence": apart, "label_loss": labels, "teacher_share": told}
        return Loss(total, {name: value.detach() for name, value in metrics.items()})
