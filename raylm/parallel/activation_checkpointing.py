"""Activation checkpointing: transformer blocks recompute their activations in the backward pass.

full        a block keeps its input alone: least memory, one more forward pass (a third more work)
selective   a block also keeps what matrix products and attention returned: no product is made twice, all between them is
            (https://arxiv.org/abs/2205.05198 section 5)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

# names in torch.ops.aten and torch.ops.torch_attn of what is dear
KEPT = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "_grouped_mm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    # the operation around flash kernels that torch.nn.attention.varlen registers
    "_varlen_attn",
)


def checkpoint_activations(blocks: Sequence[torch.nn.Module], how: str) -> None:
    """Change the forward of each block in place; names, weights and hooks stay. Dropout draws the same numbers again.

    Args:
        how: `full` or `selective`.
    """
    for block in blocks:
        block.forward = partial(_checkpointed, block.forward, how)


def _checkpointed(forward: Any, how: str, *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if how == "selective":
        return checkpoint(forward, *args, use_reentrant=False, context_fn=_selective, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@cache
def kept_operations() -> frozenset[Any]:
    """The operations of KEPT that this torch has."""
    import torch
    import torch.nn.attention.varlen

    spaces = (torch.ops.aten, torch.ops.torch_attn)
    return frozenset(packet.default for name in KEPT for space in spaces if (packet := getattr(space, name, None)) is not None)


def _selective() -> Any:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    kept = kept_operations()

    def policy(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    kept_mode, again_mode = create_selective_checkpoint_contexts(policy)
    return kept_mode, _in_words(again_mode)


@contextmanager
def _in_words(mode: Any) -> Iterator[None]:
    """Context of `mode`, which hands out what was kept; torch finds there what a model has changed in place since."""
    try:
        with mode:
            yield
    except RuntimeError as cause:
        if "has been mutated" not in str(cause):
            raise
        raise ConfigError(
            "activation_checkpointing = 'selective' keeps what products return, and this model changes that in place",
            next="set activation_checkpointing = 'full' or 'none'",
        ) from cause
