"""The `classification` objective: which of several classes a text is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.train.objectives.objective import Objective
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores


class Classification(Objective):
    """Sequence classification by a causal language model: cross-entropy of the logits at the last token, as transformers' own
    `*ForSequenceClassification` computes it; that class loads what comes out, with the names of the classes."""

    rows: ClassVar[tuple[str, ...]] = ("Labelled",)
    unit: ClassVar[str] = "texts"
    makes: ClassVar[str] = "classifier"

    kind: Literal["classification"] = "classification"
    num_labels: int | None = Field(default=None, ge=2)
    """Number of classes; that of the rows (`form.classes`) when absent."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes (https://arxiv.org/abs/1512.00567)."""

    def for_model(self, model: Any) -> Classification:
        return self.model_copy(update={"num_labels": model.config.num_labels})

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        from raylm.model.scores import last_token

        return last_token(batch)

    def asks(self) -> Asks:
        from raylm.model.head import Asks

        assert self.num_labels is not None, "not made for a model"
        return Asks(labels=self.num_labels)

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        return float(batch.row_weight_P.sum())

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Any = None) -> Loss:
        """Sum over texts, in nats."""
        import torch

        # one position of each text was asked
        logits_PC, label_P, weight_P = scores.label_BTC.sum(1), batch.columns["label"], batch.row_weight_P
        losses_P = torch.nn.functional.cross_entropy(logits_PC, label_P, reduction="none", label_smoothing=self.label_smoothing)
        right_P = (logits_PC.argmax(-1) == label_P).float()
        total = (losses_P * weight_P).sum()
        return Loss(total, {"loss": total.detach(), "accuracy": (right_P * weight_P).sum()})
