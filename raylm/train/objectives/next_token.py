"""Takes token rows with a loss mask, leaves the cross-entropy of each next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.train.objectives.objective import Loss, Objective

if TYPE_CHECKING:
    from raylm.model.scores import Inputs, Scores
    from raylm.train.batches import Micro


class NextToken(Objective):
    """Language modelling: pretraining on Tokens, supervised fine-tuning on Dialogues (assistant tokens only)."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens", "Dialogues")

    kind: Literal["next_token"] = "next_token"
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp of the logits, which keeps them from drifting (PaLM: 1e-4)."""

    def asked(self) -> dict[str, Any]:
        return {"linear": True, "z_loss": self.z_loss}

    def loss(self, scores: Scores, inputs: Inputs, micro: Micro, reference: Scores | None = None) -> Loss:
        """Sum of -log p over the tokens that count, in nats; the metric `loss` is without z-loss."""
        total = -(scores.logprob_BT * inputs.weight_BT).sum()
        metrics = {"loss": total.detach()}
        if self.z_loss:
            total = total + self.z_loss * (scores.lse_BT.square() * inputs.weight_BT).sum()
        return Loss(total, metrics)
