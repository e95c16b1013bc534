"""One forward pass: what a model is fed, what is asked of its head, and the scores that come of it.

Shapes: B sequences, T tokens, K likeliest or given tokens, C numbers of one answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raylm.model.head import LOGPROBS, Asks, Question, ask_head, head_of

if TYPE_CHECKING:
    import torch


class Rectangle(Protocol):
    """Sequences in one rectangle, padded or not, as `raylm.data.batch.Batch` has them."""

    @property
    def tokens_BT(self) -> torch.Tensor: ...

    @property
    def attend_BT(self) -> torch.Tensor: ...

    @property
    def weight_BT(self) -> torch.Tensor: ...

    @property
    def document_BT(self) -> torch.Tensor | None: ...

    @property
    def position_BT(self) -> torch.Tensor | None: ...

    @property
    def prefix_BT(self) -> torch.Tensor | None: ...

    @property
    def place_SL(self) -> torch.Tensor | None: ...


class Inputs(NamedTuple):
    """One forward pass: what the model is fed, and what is asked of its head."""

    feed: dict[str, Any]
    """Keyword arguments of the model's forward."""
    target_BT: torch.Tensor
    """The token whose log-probability is asked at each output position."""
    weight_BT: torch.Tensor
    """Weight of each target in the loss; 0 where nothing is asked: the scores there are 0."""
    id_BTK: Any = None
    """Tokens whose log-probabilities are asked beside the target's (`Asks.at_ids`), all different at each position; int."""


class Scores(NamedTuple):
    """What a head answered at each position, float32; None what was not asked."""

    logprob_BT: Any = None
    """Log-probability of the target."""
    lse_BT: Any = None
    """log(sum(exp(logits))), which z-loss holds near 0."""
    value_BT: Any = None
    """Of a value head, also one beside a vocabulary."""
    label_BTC: Any = None
    """Of a label head: the logits of C classes."""
    top_id_BTK: Any = None
    """The likeliest tokens, int64, the likeliest first."""
    top_logprob_BTK: Any = None
    """Their log-probabilities."""
    at_logprob_BTK: Any = None
    """Log-probabilities of the given tokens."""
    rest_logprob_BT: Any = None
    """Log-probability of all tokens together that are neither among the likeliest nor given; -inf where there are none."""
    entropy_BT: Any = None
    """Of the distribution, in nats."""

    @classmethod
    def of(cls, answer_BTC: torch.Tensor, asks: Asks) -> Scores:
        """The parts of what `ask_head` returns."""
        if asks.beside:
            return cls.of(answer_BTC[..., :-1], asks._replace(beside=False))._replace(value_BT=answer_BTC[..., -1])
        if asks.labels:
            return cls(label_BTC=answer_BTC)
        if asks.values:
            return cls(value_BT=answer_BTC[..., 0])
        if asks.at_ids:
            logprob_BT, lse_BT, rest_BT = answer_BTC[..., :3].unbind(-1)
            return cls(logprob_BT, lse_BT, at_logprob_BTK=answer_BTC[..., 3:], rest_logprob_BT=rest_BT)
        if asks.entropy:
            return cls(*answer_BTC[..., :2].unbind(-1), entropy_BT=answer_BTC[..., 2])
        if not asks.top_k:
            return cls(answer_BTC[..., 0], answer_BTC[..., 1])
        ids_BTK, logprob_BTK = answer_BTC[..., 3:].chunk(2, -1)
        # float32 holds whole numbers up to 2^24
        rest_BT = answer_BTC[..., 2]
        top = {"top_id_BTK": ids_BTK.long(), "top_logprob_BTK": logprob_BTK}
        return cls(answer_BTC[..., 0], answer_BTC[..., 1], rest_logprob_BT=rest_BT, **top)

    @property
    def value_B(self) -> torch.Tensor:
        """The value of each padded sequence, where one position of each was asked (`last_token`); `Batch.sums(value_BT)` tells it
        of sequences without padding too."""
        return self.value_BT.sum(1)


def causal(batch: Rectangle) -> Inputs:
    """Inputs of next-token prediction: position t is asked for token t + 1. The last position is asked for nothing.

    Of a value head they ask the value in front of each token that counts: what a critic says of the state that led to it.
    """
    import torch

    target_BT, weight_BT = torch.zeros_like(batch.tokens_BT), torch.zeros_like(batch.weight_BT)
    target_BT[:, :-1], weight_BT[:, :-1] = batch.tokens_BT[:, 1:], batch.weight_BT[:, 1:]
    return Inputs(_feed(batch), target_BT, weight_BT)


def last_token(batch: Rectangle) -> Inputs:
    """Inputs that ask a value head for one value per sequence: at its last real token, as transformers' classifiers do."""
    import torch

    weight_BT = torch.zeros_like(batch.weight_BT)
    if batch.place_SL is None:
        weight_BT.scatter_(1, batch.attend_BT.sum(1, keepdim=True) - 1, 1.0)
    else:
        last_S1 = (batch.place_SL >= 0).sum(1, keepdim=True) - 1
        weight_BT.view(-1)[batch.place_SL.gather(1, last_S1)] = 1.0
    return Inputs(_feed(batch), torch.zeros_like(batch.tokens_BT), weight_BT)


def ask(model: torch.nn.Module, inputs: Inputs, asks: Asks = LOGPROBS, backend: str = "auto") -> Scores:
    """Run the model and let its head answer with scores in place of logits.

    Args:
        backend: of the cross-entropy, see `raylm.model.head`.
    """
    return Scores.of(answer(model, inputs, asks, backend), asks)


def token_logprobs(model: torch.nn.Module, batch: Rectangle, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of token t given the tokens before it, float32 [B, T]; 0 at tokens that do not count. What evaluation and
    perplexity ask: they wait for no kernel to be compiled.

    Args:
        temperature: logits are divided by it, as a sampler does.
    """
    import torch

    scores = ask(model, causal(batch), Asks(temperature=temperature), "chunked")
    return torch.nn.functional.pad(scores.logprob_BT[:, :-1], (1, 0))


def answer(model: torch.nn.Module, inputs: Inputs, asks: Asks, backend: str) -> torch.Tensor:
    """What `ask` makes scores of, float32 [B, T, C]: in one piece, so that ranks can exchange it."""
    question = Question(asks, inputs.target_BT, inputs.weight_BT, backend, inputs.id_BTK)
    return ask_head(head_of(model), question, lambda: model(**inputs.feed, use_cache=False).logits)


def _feed(batch: Rectangle) -> dict[str, Any]:
    from raylm.model.attention import Boundaries

    # sequences are padded on the right and attention looks left: no token that counts ever sees padding, so no mask is needed
    if batch.document_BT is None:
        return {"input_ids": batch.tokens_BT}
    return {
        "input_ids": batch.tokens_BT,
        "position_ids": batch.position_BT,
        "boundaries": Boundaries(batch.document_BT, batch.prefix_BT),
    }
