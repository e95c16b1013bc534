"""An output layer whose vocabulary is cut over ranks: log-probabilities normalized over all of them, those of given tokens,
and the likeliest tokens.

Shapes: N tokens, V words of this rank, D width, K likeliest or given tokens, M of these on this rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from raylm.model.cross_entropy import as_computed
from raylm.model.given_ids import FARTHEST

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
    words: int = 0,
) -> torch.Tensor:
    """What `scores` returns, then the log-probability of all but the `count` likeliest tokens of the whole vocabulary (-inf where
    there are no others), ids and log-probabilities of these, float32 [N, 3 + 2 * count], the same on all ranks. Has no gradient.

    Args:
        words: the likeliest are chosen among the first so many tokens, 0: among all.
    """
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    place_N, mine_N = _local(target_N, part.offset, len(weight_VD))
    found_NC = hidden_ND.new_empty(len(hidden_ND), 3 + 2 * count, dtype=torch.float32)
    for at in _chunks(hidden_ND, weight_VD):
        logits_NV = _logits(hidden_ND[at], weight_VD, bias_V, temperature)
        both_N2 = _normalized(logits_NV, place_N[at], mine_N[at], part.group)
        allowed_NV = logits_NV
        if words and part.offset + len(weight_VD) > words:
            allowed_NV = logits_NV.clone()
            allowed_NV[:, max(words - part.offset, 0) :] = -torch.inf
        # no rank has more of the likeliest than `count`
        top_NK, id_NK = allowed_NV.topk(min(count, len(weight_VD)), 1)
        mine_2NK = torch.stack([top_NK, (id_NK + part.offset).float()])
        parts = [torch.empty_like(mine_2NK) for _ in range(dist.get_world_size(part.group))]
        dist.all_gather(parts, mine_2NK, group=part.group)
        every_NK, id_NK = torch.cat(parts, 2)
        top_NK, best_NK = every_NK.topk(count, 1)
        id_NK = id_NK.gather(1, best_NK)
        rest_N1 = _rest(logits_NV, id_NK.long(), part) - both_N2[:, 1:]
        found_NC[at] = torch.cat([both_N2, rest_N1, id_NK, top_NK - both_N2[:, 1:]], 1)
    return found_NC


def given(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    temperature: float,
    part: Part,
    id_NK: torch.Tensor,
    at_temperature: float,
) -> torch.Tensor:
    """What `scores` returns, then under `at_temperature` the log-probability of all tokens that are not given (-inf where there
    are none) and those of the given ones, float32 [N, 3 + K], the same on all ranks (`raylm.model.given_ids` has the formulas).

    Args:
        id_NK: K different tokens of the whole vocabulary at each position.
    """
    return _Given.apply(*as_computed(hidden_ND, weight_VD, bias_V), target_N, id_NK, temperature, at_temperature, part)


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
        sums = _Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at in _chunks(hidden_ND, weight_VD):
            share_NV = _logits(hidden_ND[at], weight_VD, bias_V, ctx.temperature).sub_(lse_N[at, None]).exp_()
            # d logprob = one-hot - softmax, d lse = softmax
            share_NV *= (gradient_N2[at, 1] - gradient_N2[at, 0])[:, None]
            share_NV.scatter_add_(-1, place_N[at, None], (gradient_N2[at, 0] * mine_N[at])[:, None])
            sums.add(at, share_NV.div_(ctx.temperature))
        return *sums.whole(ctx.group), None, None, None, None


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_N: torch.Tensor,
        id_NK: torch.Tensor,
        temperature: float,
        at_temperature: float,
        part: Part,
    ) -> torch.Tensor:
        place_N, mine_N = _local(target_N, part.offset, len(weight_VD))
        made_NC = hidden_ND.new_empty(len(hidden_ND), 3 + id_NK.shape[1], dtype=torch.float32)
        lse_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        for at in _chunks(hidden_ND, weight_VD):
            logits_NV = _logits(hidden_ND[at], weight_VD, bias_V, 1.0)
            both_N2 = _normalized(logits_NV / temperature, place_N[at], mine_N[at], part.group)
            soft_N1 = _lse(logits_NV.div_(at_temperature), part.group)
            place_NK, mine_NK = _local(id_NK[at].long(), part.offset, len(weight_VD))
            given_NK = logits_NV.gather(1, place_NK).where(mine_NK, 0.0)
            dist.all_reduce(given_NK, group=part.group)
            rest_N1 = _rest(logits_NV, id_NK[at].long(), part)
            made_NC[at] = torch.cat([both_N2, rest_N1 - soft_N1, given_NK - soft_N1], 1)
            lse_N[at] = soft_N1[:, 0]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, id_NK, made_NC[:, 1:3].clone(), lse_N)
        ctx.temperatures, ctx.part = (temperature, at_temperature), part
        return made_NC

    @staticmethod
    def backward(ctx: Any, gradient_NC: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, id_NK, known_N2, lse_N = ctx.saved_tensors
        (temperature, at_temperature), part = ctx.temperatures, ctx.part
        place_N, mine_N = _local(target_N, part.offset, len(weight_VD))
        sums = _Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at in _chunks(hidden_ND, weight_VD):
            logits_NV, by_NC = _logits(hidden_ND[at], weight_VD, bias_V, 1.0), gradient_NC[at]
            hard_NV = logits_NV.div(temperature).sub_(known_N2[at, :1]).exp_()
            hard_NV.mul_(by_NC[:, 1:2] - by_NC[:, :1]).scatter_add_(1, place_N[at, None], by_NC[:, :1] * mine_N[at, None])
            share_NV = logits_NV.div_(at_temperature).sub_(lse_N[at, None]).exp_()
            row_M, column_M, which_M = _mine(id_NK[at].long(), part, len(weight_VD))
            of_all_N1 = -by_NC[:, 2:].sum(1, keepdim=True)
            of_rest_N1 = of_all_N1 + by_NC[:, 2:3] * (-known_N2[at, 1:]).clamp(max=FARTHEST).exp()
            given_M = share_NV[row_M, column_M] * of_all_N1[row_M, 0] + by_NC[row_M, 3 + which_M]
            share_NV.mul_(of_rest_N1)[row_M, column_M] = given_M
            sums.add(at, share_NV.div_(at_temperature).add_(hard_NV.div_(temperature)))
        return *sums.whole(part.group), None, None, None, None, None


class _Gradients:
    """Of the three operands, added up over chunks; None for those that need none."""

    def __init__(self, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, needs: Any) -> None:
        self._hidden_ND, self._weight_VD, self._bias_V = hidden_ND, weight_VD, bias_V
        self.hidden_ND = torch.empty_like(hidden_ND) if needs[0] else None
        self.weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs[1] else None
        self.bias_V = torch.zeros(len(weight_VD), device=weight_VD.device) if needs[2] else None

    def add(self, at: slice, slope_NV: torch.Tensor) -> None:
        """Take the gradient of one chunk's logits."""
        if self.bias_V is not None:
            self.bias_V += slope_NV.sum(0)
        slope_NV = slope_NV.to(self._hidden_ND.dtype)
        if self.hidden_ND is not None:
            self.hidden_ND[at] = slope_NV @ self._weight_VD
        if self.weight_VD is not None:
            self.weight_VD += slope_NV.T @ self._hidden_ND[at]

    def whole(self, group: Any) -> list[torch.Tensor | None]:
        """The gradients in the operands' dtypes; that of the hidden states is summed over the ranks."""
        if self.hidden_ND is not None:
            dist.all_reduce(self.hidden_ND, group=group)
        bias_V = None if self.bias_V is None or self._bias_V is None else self.bias_V.to(self._bias_V.dtype)
        return [self.hidden_ND, None if self.weight_VD is None else self.weight_VD.to(self._weight_VD.dtype), bias_V]


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


def _lse(logits_NV: torch.Tensor, group: Any) -> torch.Tensor:
    """log(sum(exp(logits))) over the words of all ranks, [N, 1]; -inf where there is none but -inf."""
    top_N1 = logits_NV.amax(-1, keepdim=True)
    dist.all_reduce(top_N1, dist.ReduceOp.MAX, group=group)
    top_N1 = top_N1.where(top_N1.isfinite(), 0.0)
    sum_N1 = (logits_NV - top_N1).exp_().sum(-1, keepdim=True)
    dist.all_reduce(sum_N1, group=group)
    return sum_N1.log() + top_N1


def _rest(logits_NV: torch.Tensor, id_NK: torch.Tensor, part: Part) -> torch.Tensor:
    """log(sum(exp(logits))) over the words of all ranks but those given, [N, 1]. The logits of these are lost."""
    row_M, column_M, _ = _mine(id_NK, part, logits_NV.shape[1])
    logits_NV[row_M, column_M] = -torch.inf
    return _lse(logits_NV, part.group)


def _mine(id_NK: torch.Tensor, part: Part, words: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The given tokens that this rank holds: row, place in this rank's part, and number among the K."""
    place_NK, mine_NK = _local(id_NK, part.offset, words)
    row_M, which_M = mine_NK.nonzero(as_tuple=True)
    return row_M, place_NK[row_M, which_M], which_M


def _local(target_N: torch.Tensor, offset: int, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Place of each target in this rank's part (0 where it is another's), and whether it is this rank's."""
    place_N = target_N - offset
    mine_N = (place_N >= 0) & (place_N < words)
    return place_N.where(mine_N, 0), mine_N
