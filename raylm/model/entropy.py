"""Entropy of a model's distribution beside log-probability and log-sum-exp, without ever holding all logits.

Shapes: N positions, C positions of one chunk, D hidden, V vocabulary (of this rank, where ranks share it).

With p the probabilities and H = lse - sum(p * logits), the gradient of logit j is -p_j * (log p_j + H); the backward pass makes
each chunk's logits again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from raylm.model.cross_entropy import Gradients, LossOptions, as_computed, chunk_logits, scaled
from raylm.model.vocab_parallel import Part, _chunks, _local, _logits, _normalized
from raylm.model.vocab_parallel import _Gradients as PartGradients

LOWEST = -1e30
"""Stands for logits of -inf, whose share in the entropy is 0."""


def entropy(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, target_N: torch.Tensor, options: LossOptions
) -> torch.Tensor:
    """Log-probability of the target, log-sum-exp, entropy in nats, all under `options.temperature`, float32 [N, 3]."""
    kind = hidden_ND.device.type
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    with torch.autocast(kind, enabled=False):
        return _Entropy.apply(hidden_ND, weight_VD, bias_V, target_N, options)


def parallel_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    temperature: float,
    part: Part,
) -> torch.Tensor:
    """What `entropy` returns, over the words of all ranks; the same on each of them."""
    return _Parallel.apply(*as_computed(hidden_ND, weight_VD, bias_V), target_N, temperature, part)


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, target_N: Any, options: LossOptions) -> torch.Tensor:
        made_N3 = hidden_ND.new_empty(len(hidden_ND), 3, dtype=torch.float32)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            wide_CV, _ = scaled(logits_CV, options)
            lse_C1 = wide_CV.logsumexp(1, keepdim=True)
            of_target_C1 = wide_CV.gather(1, target_N[at, None])
            mean_C1 = ((wide_CV - lse_C1).exp_() * wide_CV.clamp_min_(LOWEST)).sum(1, keepdim=True)
            made_N3[at] = torch.cat([of_target_C1 - lse_C1, lse_C1, lse_C1 - mean_C1], 1)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, made_N3[:, 1:].clone())
        ctx.options = options
        return made_N3

    @staticmethod
    def backward(ctx: Any, gradient_N3: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, known_N2 = ctx.saved_tensors
        options, sums = ctx.options, Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            wide_CV, bend_CV = scaled(logits_CV, options)
            slope_CV = _slope(wide_CV, known_N2[at], gradient_N3[at])
            slope_CV.scatter_add_(1, target_N[at, None], gradient_N3[at, :1]).div_(options.temperature)
            if bend_CV is not None:
                slope_CV.mul_(bend_CV)
            sums.add(at, slope_CV.to(hidden_ND.dtype), hidden_ND, weight_VD)
        return *sums.scaled(None), None, None


class _Parallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, target_N: Any, temperature: float, part: Part
    ) -> torch.Tensor:
        place_N, mine_N = _local(target_N, part.offset, len(weight_VD))
        made_N3 = hidden_ND.new_empty(len(hidden_ND), 3, dtype=torch.float32)
        for at in _chunks(hidden_ND, weight_VD):
            logits_CV = _logits(hidden_ND[at], weight_VD, bias_V, temperature)
            both_C2 = _normalized(logits_CV, place_N[at], mine_N[at], part.group)
            lse_C1 = both_C2[:, 1:]
            mean_C1 = ((logits_CV - lse_C1).exp_() * logits_CV.clamp_min_(LOWEST)).sum(1, keepdim=True)
            dist.all_reduce(mean_C1, group=part.group)
            made_N3[at] = torch.cat([both_C2, lse_C1 - mean_C1], 1)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, made_N3[:, 1:].clone())
        ctx.temperature, ctx.part = temperature, part
        return made_N3

    @staticmethod
    def backward(ctx: Any, gradient_N3: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, known_N2 = ctx.saved_tensors
        place_N, mine_N = _local(target_N, ctx.part.offset, len(weight_VD))
        sums = PartGradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at in _chunks(hidden_ND, weight_VD):
            slope_CV = _slope(_logits(hidden_ND[at], weight_VD, bias_V, ctx.temperature), known_N2[at], gradient_N3[at])
            slope_CV.scatter_add_(1, place_N[at, None], gradient_N3[at, :1] * mine_N[at, None])
            sums.add(at, slope_CV.div_(ctx.temperature))
        return *sums.whole(ctx.part.group), None, None, None


def _slope(wide_CV: torch.Tensor, known_C2: torch.Tensor, by_C3: torch.Tensor) -> torch.Tensor:
    """Gradient of the logits (times the temperature), in place of them, but for what the target has more.

    Args:
        known_C2: log-sum-exp and entropy.
        by_C3: gradients of log-probability, log-sum-exp and entropy.
    """
    lse_C1, entropy_C1 = known_C2[:, :1], known_C2[:, 1:]
    by_logprob_C1, by_lse_C1, by_entropy_C1 = by_C3.split(1, 1)
    logprob_CV = wide_CV.clamp_min_(LOWEST).sub_(lse_C1)
    share_CV = logprob_CV.exp()
    return logprob_CV.add_(entropy_C1).mul_(-by_entropy_C1).add_(by_lse_C1 - by_logprob_C1).mul_(share_CV)
