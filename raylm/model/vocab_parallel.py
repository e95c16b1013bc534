"""An output layer whose vocabulary is cut over ranks: log-probabilities normalized over all of them, and the likeliest tokens.

Shapes: N tokens, V words of this rank, D width, K likeliest tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from raylm.model.cross_entropy import as_computed

# logits held at a time: 2^24 float32 are 64 MiB
CHUNK_LOGITS = 1 << 24


class Part(NamedTuple):
    """Which part of the vocabulary a rank holds."""

    group: Any
    """The process group that holds all of it."""
    offset: int
    """The first word of this rank."""


def scores(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    temperature: float,
    part: Part,
) -> torch.Tensor:
    """(log-probability of the target, log-sum-exp of the logits) in float32 [N, 2], the same on all ranks of the group.

    Some tokens' logits at a time are made, and made again in the backward pass (the scheme of Megatron,
    https://arxiv.org/abs/1909.08053 section 3, in chunks).

    Args:
        hidden_ND: the same on all ranks; so is its gradient.
        target_N: number in the whole vocabulary.
    """
    return _Scores.apply(*as_computed(hidden_ND, weight_VD, bias_V), target_N, temperature, part.group, part.offset)


@torch.no_grad()
def top_k(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    temperature: float,
    part: Part,
    count: int,
) -> torch.Tensor:
    """What `scores` returns, then ids and log-probabilities of the `count` likeliest tokens of the whole vocabulary, float32
    [N, 2 + 2 * count], the same on all ranks. Has no gradient."""
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    place_N, mine_N = _local(target_N, part.offset, len(weight_VD))
    found_NC = hidden_ND.new_empty(len(hidden_ND), 2 + 2 * count, dtype=torch.float32)
    for at in _chunks(hidden_ND, weight_VD):
        logits_NV = _logits(hidden_ND[at], weight_VD, bias_V, temperature)
        both_N2 = _normalized(logits_NV, place_N[at], mine_N[at], part.group)
        # no rank has more of the likeliest than `count`
        top_NK, id_NK = logits_NV.topk(min(count, len(weight_VD)), 1)
        mine_2NK = torch.stack([top_NK, (id_NK + part.offset).float()])
        parts = [torch.empty_like(mine_2NK) for _ in range(dist.get_world_size(part.group))]
        dist.all_gather(parts, mine_2NK, group=part.group)
        every_NK, id_NK = torch.cat(parts, 2)
        top_NK, best_NK = every_NK.topk(count, 1)
        found_NC[at] = torch.cat([both_N2, id_NK.gather(1, best_NK), top_NK - both_N2[:, 1:]], 1)
    return found_NC


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
            made_N2[at] = _normalized(logits_NV, place_N[at], mine_N[at], group)
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


def _normalized(logits_NV: torch.Tensor, place_N: torch.Tensor, mine_N: torch.Tensor, group: Any) -> torch.Tensor:
    """(log-probability of the target, log-sum-exp) over the words of all ranks, [N, 2]."""
    top_N = logits_NV.amax(-1)
    dist.all_reduce(top_N, dist.ReduceOp.MAX, group=group)
    target_N = logits_NV.gather(-1, place_N[:, None])[:, 0] * mine_N
    both_2N = torch.stack([(logits_NV - top_N[:, None]).exp_().sum(-1), target_N])
    dist.all_reduce(both_2N, group=group)
    lse_N = both_2N[0].log() + top_N
    return torch.stack([both_2N[1] - lse_N, lse_N], -1)


def _local(target_N: torch.Tensor, offset: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Place of each target in this rank's part (0 where it is another's), and whether it is this rank's."""
    place_N = target_N - offset
    mine_N = (place_N >= 0) & (place_N < words)
    return place_N.where(mine_N, 0), mine_N
