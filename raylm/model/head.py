"""Takes a model's output layer, leaves one that answers with log-probabilities of given targets and never holds all logits.

rungs: plain (all logits at once) | chunked (some tokens' logits at a time) | fused (chunked, with kernels of torch.compile)

What a model makes of its logits after the output layer (Gemma caps them, Cohere and Granite scale them) is made here of each
chunk's, and left out by the model while its head is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


# what is not made here, by the name of its setting
UNKNOWN = ("lm_head_multiplier", "output_multiplier")
DIVIDES = ("granite", "granitemoe", "granitemoehybrid", "granitemoeshared", "granite_swa", "granitemoe_swa")
"""Families that divide by `logits_scaling`; others multiply."""


class Change(NamedTuple):
    """Made of logits after the output layer: `cap * tanh(scale * logits / cap)`."""

    scale: float = 1.0
    cap: float | None = None


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
    rung: str


def head_of(model: Any) -> Any:
    """The model's output layer, turned into one that can be asked. Idempotent; names and weights stay as they are.

    Raises:
        ConfigError: the model has none, or changes its logits in a way that is not known here.
    """
    import torch

    bare = _bare(model)
    head = bare.get_output_embeddings()
    if hasattr(head, "asked"):
        return head
    if not isinstance(head, torch.nn.Linear):
        raise ConfigError(f"{type(bare).__name__} has no linear output layer", next="take another model")
    askable: Any = head
    askable.__class__ = _asked_class(type(head))
    askable.asked, askable.change = None, _change_of(bare)
    return askable


@contextmanager
def own_logits(model: Any) -> Iterator[None]:
    """Context in which `model` returns what its output layer returns, unchanged."""
    bare = _bare(model)
    found = [
        (owner, name, value, neutral)
        for name, neutral in (("final_logit_softcapping", None), ("logits_scaling", 1.0), ("logit_scale", 1.0))
        for owner in (_text(bare), *(module for module in bare.modules() if name in vars(module)))
        if (value := getattr(owner, name, None)) is not None
    ]
    try:
        for owner, name, _, neutral in found:
            setattr(owner, name, neutral)
        yield
    finally:
        for owner, name, value, _ in found:
            setattr(owner, name, value)


def _bare(model: Any) -> Any:
    return model.module if hasattr(model, "module") and not hasattr(model, "get_output_embeddings") else model


def _text(bare: Any) -> Any:
    """The config of the part that writes."""
    return bare.config.get_text_config(decoder=True)


def _change_of(bare: Any) -> Change:
    config = _text(bare)
    unknown = [name for name in UNKNOWN if getattr(config, name, None) not in (None, 1.0)]
    if unknown:
        raise ConfigError(f"{type(bare).__name__} changes its logits after the output layer ({', '.join(unknown)})")
    scale, divisor = getattr(config, "logit_scale", None) or 1.0, getattr(config, "logits_scaling", None) or 1.0
    scale = scale / divisor if config.model_type in DIVIDES else scale * divisor
    return Change(scale, getattr(config, "final_logit_softcapping", None))


def _asked_class(kind: type) -> type:
    def forward(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
        asked: Asked | None = self.asked
        if asked is None:
            return kind.forward(self, hidden_BTD)
        return _answer(self, hidden_BTD, asked)

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
    scale, cap = head.change
    temperature = asked.temperature / scale
    if part := getattr(head, "vocab_parallel", None):
        from raylm.model.vocab_parallel import scores

        if cap:
            raise ConfigError("the logits of a vocabulary that is cut over ranks are not capped", next="tensor = 1")
        rows = (hidden_ND[None], head.weight, head.bias, target_N[None])
        return scores(*rows, temperature, part.group, part.offset)[0]
    from raylm.model.cross_entropy import Announced, Way, chunked, plain

    rung = rung_on(hidden_ND.device.type) if asked.rung == "auto" else asked.rung
    way = Way(temperature, rung == "fused", cap / scale if cap else None)
    if rung == "plain":
        return torch.stack(plain(hidden_ND, head.weight, head.bias, target_N, way), -1)
    announced = Announced(weight_N, asked.z_loss) if asked.linear else None
    return torch.stack(chunked(hidden_ND, head.weight, head.bias, target_N, way, announced), -1)


def check_rung(rung: str, device: str) -> None:
    """Raises ConfigError when `rung` was asked for and cannot run on `device`."""
    from raylm.model.compiler import compiler_missing

    if rung == "fused" and (lacks := compiler_missing(device)):
        raise ConfigError(f"cross_entropy = 'fused' compiles kernels: there is {lacks}", next="set cross_entropy = 'auto'")


def rung_on(device: str) -> str:
    """What `auto` takes: `chunked` on CPUs, where compiling would delay the first step and gains nothing; `fused` on GPUs."""
    from raylm.model.compiler import compiler_missing

    return "chunked" if device == "cpu" or compiler_missing(device) else "fused"
