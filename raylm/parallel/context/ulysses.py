"""Ulysses attention: an all-to-all turns shards of tokens into shards of heads, so that every rank attends over whole rows.

Ulysses (https://arxiv.org/abs/2309.14509): one all-to-all before and one after attention, ranks must divide query heads.

Shapes: B rows, T tokens of the row, t = T / C tokens of a rank, H query heads, G key and value heads, K size of a head, C ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

import torch
import torch.distributed as dist

from raylm.model.attention_backends import Call, uncompiled


@uncompiled
def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call, group: Any, inner: Callable[..., Any]) -> Any:
    """[B, H, t, K] of this rank's tokens.

    Args:
        query, key, value: [B, H, t, K], [B, G, t, K] twice; ranks hold consecutive tokens. Where ranks do not divide G, each
            key and value head goes to several ranks.
        call: documents of the whole row.
        inner: attends whole rows with some of the heads.
    """
    ranks = group.size()
    copies = lcm(key.shape[1], ranks) // key.shape[1]
    if copies > 1:
        key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
    whole = [_HeadsForTokens.apply(x, group) for x in (query, key, value)]
    return _TokensForHeads.apply(inner(*whole, call), group)


class _HeadsForTokens(torch.autograd.Function):
    """[B, H, t, K] of all heads -> [B, H / C, T, K] of all tokens."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return _gather_tokens(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, None]:
        return _gather_heads(grads[0], ctx.group), None


class _TokensForHeads(torch.autograd.Function):
    """[B, H / C, T, K] of all tokens -> [B, H, t, K] of all heads."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return _gather_heads(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, None]:
        return _gather_tokens(grads[0], ctx.group), None


def _gather_tokens(x: torch.Tensor, group: Any) -> torch.Tensor:
    rows, heads, tokens, size = x.shape
    ranks = group.size()
    # first dimension: the rank that a slice goes to, then the one it came from
    got_CBHTK = _all_to_all(x.view(rows, ranks, heads // ranks, tokens, size).transpose(0, 1), group)
    return got_CBHTK.permute(1, 2, 0, 3, 4).reshape(rows, heads // ranks, ranks * tokens, size)


def _gather_heads(x: torch.Tensor, group: Any) -> torch.Tensor:
    rows, heads, tokens, size = x.shape
    ranks = group.size()
    got_CBHTK = _all_to_all(x.reshape(rows, heads, ranks, tokens // ranks, size).permute(2, 0, 1, 3, 4), group)
    return got_CBHTK.transpose(0, 1).reshape(rows, ranks * heads, tokens // ranks, size)


def _all_to_all(sent: torch.Tensor, group: Any) -> torch.Tensor:
    sent = sent.contiguous()
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent, group=group)
    return got
