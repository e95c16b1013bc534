"""Log-probabilities of given tokens, and of all others together, without ever holding all logits: what a student is asked about
its teacher's likeliest tokens.

Shapes: N positions, C positions of one chunk, D hidden, V vocabulary, K given tokens.

The backward pass makes each chunk's logits again. With g_k the gradient of the given log-probabilities and r that of the rest,
q the probabilities, the gradient of logit j is

    q_j * -(sum(g) + r) + (g_j where j is given, r * q_j / q_rest where it is not)

q_rest is summed over the tokens that are not given, not one minus the others: small rests keep all their digits.
"""

from __future__ import annotations

from typing import Any

import torch

from raylm.model.cross_entropy import Gradients, LossOptions, as_computed, chunk_logits, scaled

FARTHEST = 80.0
"""Of -log(q_rest): beyond, exp() of it leaves float32, and the rest moves nothing."""


def given(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    id_NK: torch.Tensor,
    options: LossOptions,
    temperature: float,
) -> torch.Tensor:
    """Log-probability of the target, log-sum-exp (both under `options.temperature`), and under `temperature` the log-probability
    of all tokens that are not given (-inf where there are none) and those of the given ones, float32 [N, 3 + K].

    Args:
        id_NK: K different tokens at each position.
    """
    kind = hidden_ND.device.type
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    with torch.autocast(kind, enabled=False):
        return _Given.apply(hidden_ND, weight_VD, bias_V, target_N, id_NK, options, temperature)


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, target_N: Any, id_NK: Any, options: LossOptions, temperature: float
    ) -> torch.Tensor:
        made_NC = hidden_ND.new_empty(len(hidden_ND), 3 + id_NK.shape[1], dtype=torch.float32)
        lse_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        bare = options._replace(temperature=1.0)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            wide_CV, _ = scaled(logits_CV, bare)
            of_target_C1, id_CK = wide_CV.gather(1, target_N[at, None]) / options.temperature, id_NK[at].long()
            if temperature != options.temperature:
                lse_C1 = (wide_CV / options.temperature).logsumexp(1, keepdim=True)
                wide_CV.div_(temperature)
                soft_C1 = wide_CV.logsumexp(1, keepdim=True)
            else:
                soft_C1 = lse_C1 = wide_CV.div_(temperature).logsumexp(1, keepdim=True)
            given_CK = wide_CV.gather(1, id_CK)
            rest_C1 = wide_CV.scatter_(1, id_CK, -torch.inf).logsumexp(1, keepdim=True)
            made_NC[at] = torch.cat([of_target_C1 - lse_C1, lse_C1, rest_C1 - soft_C1, given_CK - soft_C1], 1)
            lse_N[at] = soft_C1[:, 0]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, id_NK, made_NC[:, 1:3].clone(), lse_N)
        ctx.options, ctx.temperature = options, temperature
        return made_NC

    @staticmethod
    def backward(ctx: Any, gradient_NC: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, id_NK, known_N2, lse_N = ctx.saved_tensors
        options, temperature, sums = ctx.options, ctx.temperature, Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            wide_CV, bend_CV = scaled(logits_CV, options._replace(temperature=1.0))
            by_CC, target_C1 = gradient_NC[at], target_N[at, None]
            hard_CV = None
            if temperature != options.temperature:
                hard_CV = wide_CV.div(options.temperature).sub_(known_N2[at, :1]).exp_()
                hard_CV.mul_((by_CC[:, 1:2] - by_CC[:, :1]) / options.temperature)
            wide_CV.div_(temperature).sub_(lse_N[at, None]).exp_()
            shared_C1 = by_CC[:, 1:2] - by_CC[:, :1] if hard_CV is None else None
            slope_CV = slope(wide_CV, id_NK[at].long(), by_CC[:, 2:], known_N2[at, 1:], shared_C1).div_(temperature)
            if hard_CV is not None:
                slope_CV.add_(hard_CV)
            slope_CV.scatter_add_(1, target_C1, by_CC[:, :1] / options.temperature)
            if bend_CV is not None:
                slope_CV.mul_(bend_CV)
            sums.add(at, slope_CV.to(hidden_ND.dtype), hidden_ND, weight_VD)
        return *sums.scaled(None), None, None, None, None


def slope(
    share_CV: torch.Tensor, id_CK: torch.Tensor, by_CK: torch.Tensor, rest_C1: torch.Tensor, more_C1: torch.Tensor | None
) -> torch.Tensor:
    """Gradient of the logits (times the temperature), in place of the probabilities.

    Args:
        by_CK: gradients of the rest's log-probability, and of the given ones'.
        rest_C1: the rest's log-probability.
        more_C1: what probabilities are multiplied by beside all this.
    """
    of_all_C1 = -by_CK.sum(1, keepdim=True)
    if more_C1 is not None:
        of_all_C1 = of_all_C1 + more_C1
    of_rest_C1 = of_all_C1 + by_CK[:, :1] * (-rest_C1).clamp(max=FARTHEST).exp()
    given_CK = share_CV.gather(1, id_CK) * of_all_C1 + by_CK[:, 1:]
    return share_CV.mul_(of_rest_C1).scatter_(1, id_CK, given_CK)
