"""Takes a model's output layer, leaves one that answers with log-probabilities of given targets and never holds all logits.

rungs: plain (all logits at once) | chunked (some tokens' logits at a time) | fused (Liger's kernel, on GPUs)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Asked(NamedTuple):
    """A question to the head."""

    target_BT: torch.Tensor
    weight_BT: torch.Tensor | None
    """Given where the loss is linear in the log-probabilities with these weights."""
    temperature: float
    z_loss: float
    """With `weight_BT`: weight of the squared log-sum-exp, which the loss adds for each target that counts."""
    rung: str


def head_of(model: Any) -> Any:
    """The model's output layer, turned into one that can be asked. Idempotent; names and weights stay as they are.

    Raises:
        ConfigError: the model changes its logits after the output layer, or has none.
    """
    import torch

    bare = model.module if hasattr(model, "module") and not hasattr(model, "get_output_embeddings") else model
    head = bare.get_output_embeddings()
    if hasattr(head, "asked"):
        return head
    if not isinstance(head, torch.nn.Linear):
        raise ConfigError(f"{type(bare).__name__} has no linear output layer", next="take another model")
    changes = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(bare.config, name, None) not in (None, 1.0)
    ]
    if changes:
        raise ConfigError(f"{type(bare).__name__} changes its logits after the output layer ({', '.join(changes)})")
    askable: Any = head
    askable.__class__ = _asked_class(type(head))
    askable.asked = None
    return askable


def _asked_class(kind: type) -> type:
    def forward(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
        asked: Asked | None = self.asked
        if asked is None:
            return kind.forward(self, hidden_BTD)
        if part := getattr(self, "vocab_parallel", None):
            from raylm.model.vocab_parallel import scores

            return scores(hidden_BTD, self.weight, self.bias, asked.target_BT, asked.temperature, part.group, part.offset)
        import torch

        logits_BTV = torch.nn.functional.linear(hidden_BTD, self.weight, self.bias).float() / asked.temperature
        lse_BT = logits_BTV.logsumexp(-1)
        logprob_BT = logits_BTV.gather(-1, asked.target_BT[..., None])[..., 0] - lse_BT
        return torch.stack([logprob_BT, lse_BT], -1)

    return type(f"Asked{kind.__name__}", (kind,), {"forward": forward})
