"""A model's output layer that answers with what is asked of it, in place of logits, and never holds all logits.

vocabulary head   log-probability of a given target and log-sum-exp, and where asked the likeliest tokens, or given ones
value head        one number: a reward or a critic's value (a layer with one output)
label head        one number for each class: logits of a sequence classifier

backends: plain (all logits at once) | chunked (some tokens' logits at a time) | fused (chunked, with kernels of torch.compile)

What a model makes of its logits after the output layer is made here of each chunk's, and left out by the model meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.model.logit_processing import Change, change_of

if TYPE_CHECKING:
    import torch


CHANGED = "the model changes what its output layer returns, or has another one"


class Asks(NamedTuple):
    """What is asked of a head, at each position that counts."""

    values: bool = False
    """The answer of a value head. Otherwise, of a vocabulary: log-probability of the target, and log-sum-exp."""
    top_k: int = 0
    """Beside these the ids and log-probabilities of so many likeliest tokens, and the log-probability of all others together;
    then nothing has a gradient."""
    words: int = 0
    """The likeliest are chosen among the first so many tokens: an output layer may have more than a tokenizer, or than another
    model. 0: among all."""
    at_ids: int = 0
    """Beside log-probability and log-sum-exp those of so many given tokens (`Inputs.id_BTK`), and of all others together."""
    at_temperature: float = 1.0
    """Logits are divided by it where given tokens are asked for."""
    labels: int = 0
    """The logits of a label head with so many classes, in place of all else."""
    temperature: float = 1.0
    """Logits are divided by it, as a sampler does."""
    beside: bool = False
    """Beside all that is asked of a vocabulary the value of each position, of a model that has both (`with_value_beside`)."""
    entropy: bool = False
    """Beside log-probability and log-sum-exp the entropy of the distribution, with a gradient, under `temperature`."""
    linear: bool = False
    """The loss will be `-(logprob_BT * weight_BT).sum()` (with `z_loss`: plus that times the weighted sum of `lse_BT ** 2`)
    times a number: gradients are made together with the scores."""
    z_loss: float = 0.0

    @property
    def width(self) -> int:
        """Numbers of one answer: a value, or log-probability and log-sum-exp. With K likeliest tokens these, the rest, K ids and
        K log-probabilities; with K given ones these, the rest and K log-probabilities; with the entropy these and that. A value
        beside them comes last."""
        if self.values or self.labels:
            return self.labels or 1
        alone = 3 + 2 * self.top_k if self.top_k else 3 + self.at_ids if self.at_ids else 2 + self.entropy
        return alone + self.beside


LOGPROBS = Asks()


class Question(NamedTuple):
    """What a head is asked in one forward pass."""

    asks: Asks
    target_BT: torch.Tensor
    weight_BT: torch.Tensor
    """Where it is 0 nothing is computed; the answer there is 0."""
    backend: str
    id_BTK: torch.Tensor | None = None
    """The given tokens."""


def head_of(model: Any) -> Any:
    """The model's output layer, turned into one that can be asked. Idempotent; names and weights stay as they are.

    Raises:
        ConfigError: the model has none, or changes its logits in a way that is not known here.
    """
    import torch

    bare = model
    # DDP's and DeepSpeed's wrappers; the latter's pass on what they lack, and have a config of another kind
    while not hasattr(getattr(bare, "config", None), "get_text_config"):
        bare = bare.module
    head = bare.get_output_embeddings()
    if hasattr(head, "asked"):
        return head
    from raylm.model.adapters.output import plain_layer

    plain = plain_layer(head)
    if not isinstance(plain, torch.nn.Linear):
        raise ConfigError(f"{type(bare).__name__} has no linear output layer", next="take another model")
    askable: Any = head
    askable.__class__ = _asked_class(type(head))
    askable.asked, askable.proven = None, False
    # an adapter may stand beside it, or another matrix in its place
    askable.num_out = plain.out_features
    # a head of values or labels is marked as one; models leave its answers as they are
    askable.labels = getattr(plain, "labels", 0)
    askable.change = Change() if askable.labels or plain.out_features == 1 else change_of(bare)
    return askable


def ask_head(head: Any, question: Question, call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `call`, the model's forward pass, returns while `head` is asked: float32 [B, T, `Asks.width`].

    Raises:
        ConfigError: the head has no such answer, or what came is not what it answered, and so worth nothing. Looked at once.
    """
    import torch

    _check(head, question.asks)
    head.asked, head.answered = question, None
    try:
        with head.change.left_out():
            answer_BTC = call()
        if not head.proven:
            given = head.answered
            if given is None or not _same(given, answer_BTC):
                raise ConfigError(f"{CHANGED}: its loss cannot be computed", next="take another model")
            head.proven = True
    except RuntimeError as cause:
        # behind the output layer a model does nothing that could fail, but on answers that are narrower than logits
        if head.proven or head.answered is None or isinstance(cause, torch.OutOfMemoryError):
            raise
        reason = str(cause).splitlines()[0]
        raise ConfigError(f"{CHANGED}: its loss cannot be computed ({reason})", next="take another model") from cause
    finally:
        head.asked = head.answered = None
    return answer_BTC


def _check(head: Any, asks: Asks) -> None:
    if asks.labels != (head.labels if head.labels > 1 else 0):
        raise ConfigError(
            f"{asks.labels or 'no'} labels are asked of a model with {head.labels or 'none'}",
            next="name a classifier of these classes" if asks.labels else "name a model without labels",
        )
    if asks.labels:
        return
    if asks.values and head.num_out > 1:
        raise ConfigError("values are asked of a model without a value head", next="name a reward model")
    if not asks.values and head.num_out == 1:
        raise ConfigError("log-probabilities are asked of a model with a value head", next="name a language model")
    if asks.beside and not getattr(head, "beside", ()):
        raise ConfigError("values are asked of a model without a value head beside its vocabulary", next="name a reward model")
    if asks.top_k > min(head.num_out, asks.words or head.num_out):
        raise ConfigError(f"the {asks.top_k} likeliest of {asks.words or head.num_out} tokens are asked for")
    if asks.at_ids and asks.top_k:
        raise ConfigError("a head is asked for given tokens or for the likeliest ones, not for both")
    if asks.entropy and (asks.at_ids or asks.top_k):
        raise ConfigError("a head is asked for the entropy of all tokens or for single ones, not for both")


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape:
        return False
    # a wrapper may cast what a model returns; a NaN is no change, the norm of the gradients will tell
    left, right = left.detach().to(right.dtype), right.detach()
    return bool(((left == right) | right.isnan()).all())


def _asked_class(kind: type) -> type:
    def forward(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
        question: Question | None = self.asked
        if question is None:
            return kind.forward(self, hidden_BTD)
        answer_BTC = _answer(self, hidden_BTD, question, kind)
        if not self.proven:
            self.answered = answer_BTC
        return answer_BTC

    return type(f"Asked{kind.__name__}", (kind,), {"forward": forward})


def _answer(head: Any, hidden_BTD: torch.Tensor, question: Question, kind: type) -> torch.Tensor:
    """The answer at each position that counts, float32 [B, T, C]."""
    import torch

    asks, target_BT = question.asks, question.target_BT
    hidden_ND, target_N, weight_N = hidden_BTD.flatten(0, 1), target_BT.flatten(), question.weight_BT.flatten()
    id_NK = _ids(question).flatten(0, 1) if asks.at_ids else None
    counting_N = weight_N.nonzero()[:, 0]
    whole = len(counting_N) == len(weight_N)
    if not whole:
        hidden_ND, target_N, weight_N = (each.index_select(0, counting_N) for each in (hidden_ND, target_N, weight_N))
        id_NK = None if id_NK is None else id_NK.index_select(0, counting_N)
    if asks.values or asks.labels:
        answer_NC = kind.forward(head, hidden_ND).float()
    else:
        answer_NC = _scores(head, hidden_ND, target_N, weight_N, asks, question.backend, id_NK)
        if asks.beside:
            answer_NC = torch.cat([answer_NC, head.beside[0](hidden_ND).float()], -1)
    if not whole:
        answer_NC = answer_NC.new_zeros(target_BT.numel(), asks.width).index_copy(0, counting_N, answer_NC)
    return answer_NC.view(*target_BT.shape, asks.width)


def _ids(question: Question) -> torch.Tensor:
    id_BTK, (batch, length) = question.id_BTK, question.target_BT.shape
    if id_BTK is None or id_BTK.shape != (batch, length, question.asks.at_ids):
        came = "none" if id_BTK is None else f"ids of shape {tuple(id_BTK.shape)}"
        raise ConfigError(f"{question.asks.at_ids} given tokens at each position are asked for, {came} came")
    return id_BTK


def _scores(
    head: Any,
    hidden_ND: torch.Tensor,
    target_N: torch.Tensor,
    weight_N: torch.Tensor,
    asks: Asks,
    backend: str,
    id_NK: torch.Tensor | None,
) -> torch.Tensor:
    import torch

    # a cap is made of what was scaled before: cap * tanh(scale * x / cap) / t = c * tanh(x / c) / (t / scale), c = cap / scale
    scale, cap, more_V = head.change.scale, head.change.cap, head.change.bias_V
    temperature = asks.temperature / scale
    if part := getattr(head, "vocab_parallel", None):
        from raylm.model import vocab_parallel

        if cap:
            raise ConfigError("the logits of a vocabulary that is cut over ranks are not capped", next="tensor = 1")
        if more_V is not None:
            raise ConfigError("the model adds a bias after its output layer, which is cut over ranks", next="tensor = 1")
        rows = (hidden_ND, head.weight, head.bias, target_N, temperature, part)
        if asks.top_k:
            return vocab_parallel.top_k(*rows, asks.top_k, asks.words)
        if id_NK is not None:
            return vocab_parallel.given(*rows, id_NK, asks.at_temperature / scale)
        if asks.entropy:
            from raylm.model.entropy import parallel_entropy

            return parallel_entropy(*rows)
        return vocab_parallel.scores(*rows)
    from raylm.model.adapters.output import operands
    from raylm.model.cross_entropy import Announced, LossOptions, chunked, plain, top_k

    hidden_ND, weight_VD, bias_V = operands(head, hidden_ND)
    bias_V = bias_V if more_V is None else more_V if bias_V is None else bias_V + more_V
    backend = backend_on(hidden_ND.device.type) if backend == "auto" else backend
    options = LossOptions(temperature, backend == "fused", cap / scale if cap else None)
    rows = (hidden_ND, weight_VD, bias_V, target_N, options)
    if asks.top_k:
        return top_k(*rows, asks.top_k, asks.words)
    if id_NK is not None:
        from raylm.model.given_ids import given

        return given(*rows[:4], id_NK, options, asks.at_temperature / scale)
    if asks.entropy:
        from raylm.model.entropy import entropy

        return entropy(*rows)
    if backend == "plain":
        return torch.stack(plain(*rows), -1)
    return torch.stack(chunked(*rows, Announced(weight_N, asks.z_loss) if asks.linear else None), -1)


def check_backend(backend: str, device: str) -> None:
    """Raises ConfigError when `backend` was asked for and cannot run on `device`."""
    from raylm.model.compiler import compiler_missing

    if backend == "fused" and (lacks := compiler_missing(device)):
        raise ConfigError(f"cross_entropy = 'fused' compiles kernels: there is {lacks}", next="set cross_entropy = 'auto'")


def backend_on(device: str) -> str:
    """What `auto` takes: `chunked` on CPUs, where compiling would delay the first step and gains nothing; `fused` on GPUs."""
    from raylm.model.compiler import compiler_missing

    return "chunked" if device == "cpu" or compiler_missing(device) else "fused"
