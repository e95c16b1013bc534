"""Attention of a document that goes on from another one, on CPUs: over both apart, merged by the log-sum-exp of their scores.

No mask is made, no keys are copied beside others, and what no query sees is not computed; the merge is that of ring
attention (https://arxiv.org/abs/2310.01889).

Shapes: B rows, H query heads, G key and value heads, n tokens of the document, p of its prefix, K size of a head.
"""

from __future__ import annotations

from typing import Any

import torch

from raylm.model.torch_private import flash_attention_cpu, flash_attention_cpu_backward


def continued(
    query: torch.Tensor, before: tuple[torch.Tensor, torch.Tensor], own: tuple[torch.Tensor, torch.Tensor], scale: float
) -> torch.Tensor:
    """[B, H, n, K]: every query sees the whole prefix, and its own document up to itself.

    Args:
        query: [B, H, n, K].
        before: keys and values of the prefix, [B, G, p, K] each.
        own: of the document, [B, G, n, K] each.
    """
    out: Any = _Continued.apply(query, *before, *own, scale)
    return out


class _Continued(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Any, key_p: Any, value_p: Any, key: Any, value: Any, scale: float) -> torch.Tensor:
        out, lse = _flash(query, key, value, True, scale)
        out_p, lse_p = _flash(query, key_p, value_p, False, scale)
        both = torch.logaddexp(lse, lse_p)
        merged = out * (lse - both).exp()[..., None] + out_p * (lse_p - both).exp()[..., None]
        merged = merged.to(query.dtype)
        ctx.save_for_backward(query, key_p, value_p, key, value, merged, both)
        ctx.scale = scale
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        query, key_p, value_p, key, value, merged, both = ctx.saved_tensors
        upstream = grads[0].contiguous()

        def through(keys: torch.Tensor, values: torch.Tensor, causal: bool) -> list[torch.Tensor]:
            groups, wide = keys.shape[1], (_repeated(query, keys), _repeated(query, values))
            found = flash_attention_cpu_backward(
                upstream, query, *wide, merged, both, 0.0, causal, attn_mask=None, scale=ctx.scale
            )
            return [found[0], *(x if x.shape[1] == groups else x.unflatten(1, (groups, -1)).sum(2) for x in found[1:])]

        dquery, dkey, dvalue = through(key, value, True)
        dquery_p, dkey_p, dvalue_p = through(key_p, value_p, False)
        return dquery + dquery_p, dkey_p, dvalue_p, dkey, dvalue, None


def _flash(query: Any, key: Any, value: Any, causal: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = _repeated(query, key), _repeated(query, value)
    return flash_attention_cpu(query, keys, values, 0.0, causal, attn_mask=None, scale=scale)[:2]


def _repeated(query: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    repeats = query.shape[1] // x.shape[1]
    return x if repeats == 1 else x.repeat_interleave(repeats, 1)
