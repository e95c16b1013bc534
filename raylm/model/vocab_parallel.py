"""Takes hidden states and one rank's part of the vocabulary, leaves log-probabilities that are normalized over all ranks.

Shapes: B rows, T tokens, N of them, V words of this rank, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

# logits held at a time: 2^24 float32 are 64 MiB
CHUNK_LOGITS = 1 << 24


class Part(NamedTuple):
    """Which part of the vocabulary a rank holds."""

    group: Any
    """The process group that holds all of it."""
    offset: int
    """The first word of this rank."""


def scores(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_BT: torch.Tensor,
    temperature: float,
    group: Any,
    offset: int,
) -> torch.Tensor:
    """(log-probability of the target, log-sum-exp of the logits) in float32 [B, T, 2], the same on all ranks of `group`.

    Some tokens' logits at a time are made, and made again in the backward pass (the scheme of Megatron,
    https://arxiv.org/abs/1909.08053 section 3, in chunks).

    Args:
        hidden_BTD: the same on all ranks; so is its gradient.
        target_BT: number in the whole vocabulary.
        offset: number of the first word in `weight_VD`.
    """
    kind = hidden_BTD.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden_BTD, weight_VD = hidden_BTD.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    made_N2 = _Scores.apply(hidden_BTD.flatten(0, 1), weight_VD, bias_V, target_BT.flatten(), temperature, group, offset)
    return made_N2.view(*target_BT.shape, 2)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_N: torch.Tensor,
        temperature: float,
        group: Any,
        offset: int,
    ) -> torch.Tensor:
        place_N, mine_N = _local(target_N, offset, len(weight_VD))
        made_N2 = hidden_ND.new_empty(len(hidden_ND), 2, dtype=torch.float32)
        for at in _chunks(hidden_ND, weight_VD):
            logits_NV = _logits(hidden_ND[at], weight_VD, bias_V, temperature)
            top_N = logits_NV.amax(-1)
            dist.all_reduce(top_N, dist.ReduceOp.MAX, group=group)
            asked_N = logits_NV.gather(-1, place_N[at, None])[:, 0] * mine_N[at]
            both_2N = torch.stack([(logits_NV - top_N[:, None]).exp_().sum(-1), asked_N])
            dist.all_reduce(both_2N, group=group)
            lse_N = both_2N[0].log() + top_N
            made_N2[at] = torch.stack([both_2N[1] - lse_N, lse_N], -1)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, made_N2[:, 1].clone())
        ctx.temperature, ctx.group, ctx.offset = temperature, group, offset
        return made_N2

    @staticmethod
    def backward(ctx: Any, gradient_N2: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, lse_N = ctx.saved_tensors
        place_N, mine_N = _local(target_N, ctx.offset, len(weight_VD))
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        hidden_grad_ND = torch.empty_like(hidden_ND) if of_hidden else None
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if of_weight else None
        bias_grad_V = torch.zeros(len(weight_VD), device=weight_VD.device) if of_bias else None
        for at in _chunks(hidden_ND, weight_VD):
            share_NV = _logits(hidden_ND[at], weight_VD, bias_V, ctx.temperature).sub_(lse_N[at, None]).exp_()
            # d logprob = one-hot - softmax, d lse = softmax
            share_NV *= (gradient_N2[at, 1] - gradient_N2[at, 0])[:, None]
            share_NV.scatter_add_(-1, place_N[at, None], (gradient_N2[at, 0] * mine_N[at])[:, None])
            share_NV /= ctx.temperature
            if bias_grad_V is not None:
                bias_grad_V += share_NV.sum(0)
            share_NV = share_NV.to(hidden_ND.dtype)
            if hidden_grad_ND is not None:
                hidden_grad_ND[at] = share_NV @ weight_VD
            if weight_grad_VD is not None:
                weight_grad_VD += share_NV.T @ hidden_ND[at]
        if hidden_grad_ND is not None:
            dist.all_reduce(hidden_grad_ND, group=ctx.group)
        weight_grad = None if weight_grad_VD is None else weight_grad_VD.to(weight_VD.dtype)
        bias_grad = None if bias_grad_V is None or bias_V is None else bias_grad_V.to(bias_V.dtype)
        return hidden_grad_ND, weight_grad, bias_grad, None, None, None, None


def _chunks(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> list[slice]:
    size = max(1, CHUNK_LOGITS // len(weight_VD))
    return [slice(at, at + size) for at in range(0, len(hidden_ND), size)]


def _logits(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, temperature: float) -> torch.Tensor:
    return torch.nn.functional.linear(hidden_ND, weight_VD, bias_V).float() / temperature


def _local(target_N: torch.Tensor, offset: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Place of each target in this rank's part (0 where it is another's), and whether it is this rank's."""
    place_N = target_N - offset
    mine_N = (place_N >= 0) & (place_N < words)
    return place_N.where(mine_N, 0), mine_N
