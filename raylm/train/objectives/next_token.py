"""Takes token rows with a loss mask, leaves the cross-entropy of each next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from raylm.core.config import Config
from raylm.model.logprobs import token_logprobs
from raylm.train.objectives.loss import Loss

if TYPE_CHECKING:
    import torch

    from raylm.train.batches import Micro


class NextToken(Config):
    """Language modelling: pretraining on Tokens, supervised fine-tuning on Dialogues (assistant tokens only)."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens", "Dialogues")
    needs: ClassVar[tuple[str, ...]] = ()

    kind: Literal["next_token"] = "next_token"

    def loss(self, model: torch.nn.Module, micro: Micro, reference: torch.Tensor | None = None) -> Loss:
        """Sum of -log p over the tokens that count, in nats."""
        total = -(token_logprobs(model, micro.padded) * micro.padded.weight_BT).sum()
        return Loss(total, {"loss": total.detach()})
