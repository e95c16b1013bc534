"""Takes a model's output layer, leaves one that answers with log-probabilities of given targets and never holds all logits.

backends: plain (all logits at once) | chunked (some tokens' logits at a time) | fused (chunked, with kernels of torch.compile)

What a model makes of its logits after the output layer is made here of each chunk's, and left out by the model meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.model.logit_processing import change_of

if TYPE_CHECKING:
    import torch


CHANGED = "the model changes what its output layer returns, or has another one"


class Asked(NamedTuple):
    """A question to the head."""

    target_BT: torch.Tensor
    weight_BT: torch.Tensor
    """Targets with weight 0 are not computed; the answer there is 0."""
    linear: bool
    """Whether the loss will be linear in the log-probabilities with these weights."""
    temperature: float
    z_loss: float
    """With `linear`: weight of the squared log-sum-exp, which the loss adds for each target that counts."""
    backend: str


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
    if not isinstance(head, torch.nn.Linear):
        raise ConfigError(f"{type(bare).__name__} has no linear output layer", next="take another model")
    askable: Any = head
    askable.__class__ = _asked_class(type(head))
    askable.asked, askable.change, askable.proven = None, change_of(bare), False
    return askable


def ask_head(head: Any, asked: Asked, call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `call`, the model's forward pass, returns while `head` is asked: (log-probability, log-sum-exp), [B, T, 2].

    Raises:
        ConfigError: that is not what the head answered, and so worth nothing. Looked at once.
    """
    import torch

    head.asked, head.answered = asked, None
    try:
        with head.change.left_out():
            answer_BT2 = call()
        if not head.proven:
            given = head.answered
            if given is None or not _same(given, answer_BT2):
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
    return answer_BT2


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape:
        return False
    # a wrapper may cast what a model returns; a NaN is no change, the norm of the gradients will tell
    left, right = left.detach().to(right.dtype), right.detach()
    return bool(((left == right) | right.isnan()).all())


def _asked_class(kind: type) -> type:
    def forward(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
        asked: Asked | None = self.asked
        if asked is None:
            return kind.forward(self, hidden_BTD)
        answer_BT2 = _answer(self, hidden_BTD, asked)
        if not self.proven:
            self.answered = answer_BT2
        return answer_BT2

    return type(f"Asked{kind.__name__}", (kind,), {"forward": forward})


def _answer(head: Any, hidden_BTD: torch.Tensor, asked: Asked) -> torch.Tensor:
    """(log-probability, log-sum-exp) of each target that counts, float32 [B, T, 2]."""

    hidden_ND, target_N, weight_N = hidden_BTD.flatten(0, 1), asked.target_BT.flatten(), asked.weight_BT.flatten()
    counting_N = weight_N.nonzero()[:, 0]
    whole = len(counting_N) == len(weight_N)
    if not whole:
        hidden_ND, target_N, weight_N = (each.index_select(0, counting_N) for each in (hidden_ND, target_N, weight_N))
    answer_N2 = _scores(head, hidden_ND, target_N, weight_N, asked)
    if not whole:
        answer_N2 = answer_N2.new_zeros(asked.target_BT.numel(), 2).index_copy(0, counting_N, answer_N2)
    return answer_N2.view(*asked.target_BT.shape, 2)


def _scores(head: Any, hidden_ND: torch.Tensor, target_N: torch.Tensor, weight_N: torch.Tensor, asked: Asked) -> torch.Tensor:
    import torch

    # a cap is made of what was scaled before: cap * tanh(scale * x / cap) / t = c * tanh(x / c) / (t / scale), c = cap / scale
    scale, cap, more_V = head.change.scale, head.change.cap, head.change.bias_V
    temperature = asked.temperature / scale
    bias_V = head.bias if more_V is None else more_V if head.bias is None else head.bias + more_V
    if part := getattr(head, "vocab_parallel", None):
        from raylm.model.vocab_parallel import scores

        if cap:
            raise ConfigError("the logits of a vocabulary that is cut over ranks are not capped", next="tensor = 1")
        if more_V is not None:
            raise ConfigError("the model adds a bias after its output layer, which is cut over ranks", next="tensor = 1")
        rows = (hidden_ND[None], head.weight, head.bias, target_N[None])
        return scores(*rows, temperature, part.group, part.offset)[0]
    from raylm.model.cross_entropy import Announced, LossOptions, chunked, plain

    backend = backend_on(hidden_ND.device.type) if asked.backend == "auto" else asked.backend
    options = LossOptions(temperature, backend == "fused", cap / scale if cap else None)
    if backend == "plain":
        return torch.stack(plain(hidden_ND, head.weight, bias_V, target_N, options), -1)
    announced = Announced(weight_N, asked.z_loss) if asked.linear else None
    return torch.stack(chunked(hidden_ND, head.weight, bias_V, target_N, options, announced), -1)


def check_backend(backend: str, device: str) -> None:
    """Raises ConfigError when `backend` was asked for and cannot run on `device`."""
    from raylm.model.compiler import compiler_missing

    if backend == "fused" and (lacks := compiler_missing(device)):
        raise ConfigError(f"cross_entropy = 'fused' compiles kernels: there is {lacks}", next="set cross_entropy = 'auto'")


def backend_on(device: str) -> str:
    """What `auto` takes: `chunked` on CPUs, where compiling would delay the first step and gains nothing; `fused` on GPUs."""
    from raylm.model.compiler import compiler_missing

    return "chunked" if device == "cpu" or compiler_missing(device) else "fused"
