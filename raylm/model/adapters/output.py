"""The output layer with an adapter: one matrix and what it multiplies, so that a head can answer without all logits.

LoRA        W h + s B A h = [W | B] [h ; s A h]
DoRA        the same, each row times its magnitude over its norm
whole       the matrix that is trained in place of W
rows        W with the trained rows of some tokens

Shapes: N tokens, D hidden, V vocabulary, R rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from raylm.model.cross_entropy import as_computed


class Operands(NamedTuple):
    """What logits are the product of."""

    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None


def plain_layer(head: Any) -> Any:
    """The model's own output layer below peft's layers around it."""
    while True:
        inner = next((getattr(head, name, None) for name in ("base_layer", "original_module") if _wraps(head, name)), None)
        if inner is None:
            return head
        head = inner


def operands(head: Any, hidden_ND: torch.Tensor) -> Operands:
    """Of an output layer with or without an adapter, on or off."""
    if not hasattr(head, "disable_adapters"):
        return Operands(hidden_ND, head.weight, head.bias)
    plain = plain_layer(head)
    if head.disable_adapters or not head.active_adapters:
        return Operands(hidden_ND, plain.weight, plain.bias)
    if not hasattr(head, "lora_A"):
        # modules_to_save, or rows of tokens
        return Operands(hidden_ND, head.weight, getattr(head, "bias", None) if hasattr(head, "modules_to_save") else plain.bias)
    return _with_lora(head, plain, hidden_ND)


def _with_lora(head: Any, plain: Any, hidden_ND: torch.Tensor) -> Operands:
    name = head.active_adapters[0]
    down, up, scale = head.lora_A[name], head.lora_B[name].weight, head.scaling[name]
    narrow_NR = down(head.lora_dropout[name](hidden_ND).to(down.weight.dtype)) * scale
    hidden_ND, weight_VD, _ = as_computed(hidden_ND, plain.weight, None)
    weight = torch.cat([weight_VD, up.to(weight_VD.dtype)], 1)
    if name in head.lora_magnitude_vector:
        # https://arxiv.org/abs/2402.09353 section 4.3: the norm is taken as a constant
        with torch.no_grad():
            norm_V = torch.linalg.norm(weight_VD + scale * (up @ down.weight).to(weight_VD.dtype), dim=1)
        weight = weight * (head.lora_magnitude_vector[name].weight / norm_V).to(weight_VD.dtype)[:, None]
    return Operands(torch.cat([hidden_ND, narrow_NR.to(hidden_ND.dtype)], 1), weight, plain.bias)


def _wraps(head: Any, name: str) -> bool:
    return hasattr(head, "disable_adapters") and getattr(head, name, None) is not None
