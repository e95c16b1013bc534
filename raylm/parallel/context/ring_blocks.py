"""Attention of some queries over one block of keys and values, with the log-sum-exp that merges blocks.

In a block every query sees every key, or it is a square on the diagonal (causal), or it has a mask. Kernels: torch's flash
attention for CPUs, and for CUDA in half precision; without one, the plain formulas over a part of the queries at a time.

Shapes: B rows, H query heads, G key and value heads, q queries, k keys, K size of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from raylm.model.torch_private import (
    flash_attention,
    flash_attention_backward,
    flash_attention_cpu,
    flash_attention_cpu_backward,
)

QUERIES = 512
"""Queries whose scores the plain formulas hold at once."""


class Block(NamedTuple):
    """Which keys the queries of one block see."""

    causal: bool
    scale: float
    seen_BQK: torch.Tensor | None = None
    """Bool [B or 1, q, k]; None: all, or the lower triangle when `causal`."""


def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, H, q, K] over these keys alone and log-sum-exp of their scores [B, H, q], both float32 or wider.

    A query that sees no key has output 0 and a log-sum-exp of -inf.
    """
    if not _flash(query, block):
        return _plain_forward(query, key, value, block)
    key, value = _repeated(query, key, value)
    if query.is_cuda:
        out, lse = flash_attention(query, key, value, 0.0, block.causal, False, scale=block.scale)[:2]
        return out.float(), lse
    out, lse = flash_attention_cpu(query, key, value, 0.0, block.causal, attn_mask=_additive(query, block), scale=block.scale)
    if block.seen_BQK is not None:
        lse = lse.masked_fill(~block.seen_BQK.any(-1)[:, None], -torch.inf)
    return out.to(lse.dtype), lse


def backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    block: Block,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values through this block.

    Args:
        upstream, out, lse: gradient, output and log-sum-exp over all keys of the row, not this block's alone.
    """
    if not _flash(query, block):
        return _plain_backward(upstream, query, key, value, out, lse, block)
    groups = key.shape[1]
    key, value = _repeated(query, key, value)
    if query.is_cuda:
        lengths, none = (query.shape[2], key.shape[2]), torch.zeros(2, dtype=torch.uint64, device=query.device)
        dq, dk, dv = flash_attention_backward(
            upstream, query, key, value, out, lse, None, None, *lengths, 0.0, block.causal, none, none[:0], scale=block.scale
        )
    else:
        dq, dk, dv = flash_attention_cpu_backward(
            upstream,
            query,
            key,
            value,
            out,
            lse,
            0.0,
            block.causal,
            attn_mask=_additive(query, block),
            scale=block.scale,
        )
    if key.shape[1] != groups:
        dk, dv = (x.unflatten(1, (groups, -1)).float().sum(2) for x in (dk, dv))
    return dq, dk, dv


def _flash(query: torch.Tensor, block: Block) -> bool:
    if not query.is_cuda:
        return query.device.type == "cpu"
    # CUDA's kernel knows no mask, and sizes in eights up to 256
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and block.seen_BQK is None and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256


def _repeated(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    repeats = query.shape[1] // key.shape[1]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)


def _additive(query: torch.Tensor, block: Block) -> torch.Tensor | None:
    if block.seen_BQK is None:
        return None
    nothing = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(block.seen_BQK[:, None], nothing, -torch.inf)


def _plain_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, block: Block
) -> tuple[torch.Tensor, torch.Tensor]:
    key, value = key.to(_wide(key)), value.to(_wide(value))
    outs, lses = [], []
    for start in range(0, query.shape[2], QUERIES):
        scores = _scores(query, key, block, start)
        lse = scores.logsumexp(-1)
        weights = (scores - lse.clamp(min=torch.finfo(lse.dtype).min)[..., None]).exp_()
        outs.append((weights.flatten(2, 3) @ value).view(*weights.shape[:-1], -1).flatten(1, 2))
        lses.append(lse.flatten(1, 2))
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _plain_backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    block: Block,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    groups = key.shape[1]
    key, value = key.to(_wide(key)), value.to(_wide(value))
    dq, dk, dv = [], torch.zeros_like(key), torch.zeros_like(value)
    for start in range(0, query.shape[2], QUERIES):
        part = slice(start, start + QUERIES)
        # [B, G, H / G * q, K]: heads that share keys are rows of one matrix
        q, up, o = (x[:, :, part].to(key.dtype).unflatten(1, (groups, -1)).flatten(2, 3) for x in (query, upstream, out))
        scores = _scores(query, key, block, start)
        weights = (scores - lse[:, :, part].unflatten(1, (groups, -1))[..., None]).exp_().flatten(2, 3)
        dv += weights.transpose(-1, -2) @ up
        dscores = weights * (up @ value.transpose(-1, -2) - (up * o).sum(-1, keepdim=True)) * block.scale
        dq.append((dscores @ key).unflatten(2, (scores.shape[2], -1)).flatten(1, 2))
        dk += dscores.transpose(-1, -2) @ q
    return torch.cat(dq, 2), dk, dv


def _scores(query: torch.Tensor, key: torch.Tensor, block: Block, start: int) -> torch.Tensor:
    """[B, G, H / G, q, k] of QUERIES queries from `start`; -inf where a key is not seen."""
    part = slice(start, start + QUERIES)
    q = query[:, :, part].to(key.dtype).unflatten(1, (key.shape[1], -1))
    scores = (q.flatten(2, 3) @ key.transpose(-1, -2)).view(*q.shape[:-1], -1).mul_(block.scale)
    if block.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1 + start)
        return scores.masked_fill_(hidden, -torch.inf)
    if block.seen_BQK is not None:
        return scores.masked_fill_(~block.seen_BQK[:, None, None, part], -torch.inf)
    return scores


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
