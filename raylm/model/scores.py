"""Takes a model and the inputs of one forward pass, leaves the log-probability of each target token.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raylm.model.head import Asked, ask_head, head_of

if TYPE_CHECKING:
    import torch


class Padded(Protocol):
    """Sequences in one rectangle, as `raylm.data.batch.Batch` has them."""

    @property
    def tokens_BT(self) -> torch.Tensor: ...

    @property
    def weight_BT(self) -> torch.Tensor: ...

    @property
    def document_BT(self) -> torch.Tensor | None: ...

    @property
    def position_BT(self) -> torch.Tensor | None: ...


class Inputs(NamedTuple):
    """One forward pass: what the model is fed, and what is asked of its head."""

    feed: dict[str, Any]
    """Keyword arguments of the model's forward."""
    target_BT: torch.Tensor
    """The token whose log-probability is asked at each output position."""
    weight_BT: torch.Tensor
    """Weight of each target in the loss; 0 where nothing is asked: the scores there are 0."""


class Scores(NamedTuple):
    """What the head says of each target, float32."""

    logprob_BT: torch.Tensor
    lse_BT: torch.Tensor
    """log(sum(exp(logits))), which z-loss holds near 0."""


def causal(batch: Padded) -> Inputs:
    """Inputs of next-token prediction: position t is asked for token t + 1. The last position is asked for nothing."""
    import torch

    from raylm.model.attention import Boundaries

    feed: dict[str, Any] = {"input_ids": batch.tokens_BT}
    # rows are padded on the right and attention looks left: no token that counts ever sees padding, so no mask is needed
    if batch.document_BT is not None:
        feed |= {"position_ids": batch.position_BT, "boundaries": Boundaries(batch.document_BT)}
    target_BT, weight_BT = torch.zeros_like(batch.tokens_BT), torch.zeros_like(batch.weight_BT)
    target_BT[:, :-1], weight_BT[:, :-1] = batch.tokens_BT[:, 1:], batch.weight_BT[:, 1:]
    return Inputs(feed, target_BT, weight_BT)


def ask(
    model: torch.nn.Module,
    inputs: Inputs,
    *,
    temperature: float = 1.0,
    linear: bool = False,
    z_loss: float = 0.0,
    backend: str = "auto",
) -> Scores:
    """Run the model and let its head answer with scores in place of logits.

    Args:
        temperature: logits are divided by it, as a sampler does.
        linear: the loss will be `-(logprob_BT * weight_BT).sum()` (with `z_loss`: plus that times the weighted sum of
            `lse_BT ** 2`) times a number: gradients are made together with the scores.
        backend: way of the cross-entropy, see `raylm.model.head`.
    """
    asked = Asked(inputs.target_BT, inputs.weight_BT, linear, temperature, z_loss, backend)
    answer_BT2 = ask_head(head_of(model), asked, lambda: model(**inputs.feed, use_cache=False).logits)
    return Scores(answer_BT2[..., 0], answer_BT2[..., 1])
