"""Takes hidden states, an output matrix and target tokens, leaves log-probabilities and never holds all logits.

Shapes: N tokens, C tokens of one chunk, D hidden, V vocabulary.

loss announced   gradients are made together with the scores, chunk by chunk: three matrix products, as in Liger
                 (https://arxiv.org/abs/2410.10989)
otherwise        the backward pass makes each chunk's logits again, for gradients of any kind: four products
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch

from raylm.model.torch_private import assert_on_device


class Announced(NamedTuple):
    """The loss will be `scale * sum(weight_N * (-logprob_N + z_loss * lse_N ** 2))`; the backward pass brings the scale."""

    weight_N: torch.Tensor
    z_loss: float


class LossOptions(NamedTuple):
    """How chunks are computed."""

    temperature: float
    fused: bool = False
    """Between the products by kernels of torch.compile, not operation by operation."""
    cap: float | None = None
    """Logits are `cap * tanh(logits / cap)`, before the temperature (Gemma 2, https://arxiv.org/abs/2408.00118 section 2)."""


def plain(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, target_N: torch.Tensor, options: LossOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target and log-sum-exp of its logits, float32 [N] each, from all logits at once."""
    logits_NV = _wide(torch.nn.functional.linear(hidden_ND, weight_VD, bias_V), options)
    lse_N = logits_NV.logsumexp(-1)
    return logits_NV.gather(-1, target_N[:, None])[:, 0] - lse_N, lse_N


def chunked(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    options: LossOptions,
    announced: Announced | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `plain` returns, from the logits of some tokens at a time. Sums of gradients are float32."""
    kind = hidden_ND.device.type
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden_ND, weight_VD, bias_V))
    with torch.autocast(kind, enabled=False):
        if learns and announced:
            return _Announced.apply(hidden_ND, weight_VD, bias_V, target_N, options, announced)
        return _Recomputed.apply(hidden_ND, weight_VD, bias_V, target_N, options)


@torch.no_grad()
def top_k(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_N: torch.Tensor,
    options: LossOptions,
    count: int,
    words: int = 0,
) -> torch.Tensor:
    """What `plain` returns, then of the `count` likeliest tokens ids and log-probabilities, and the log-probability of all
    others together (-inf where there are none), float32 [N, 3 + 2 * count], from the logits of some tokens at a time. Has no
    gradient.

    Args:
        words: the likeliest are chosen among the first so many tokens, 0: among all.
    """
    kind = hidden_ND.device.type
    hidden_ND, weight_VD, bias_V = as_computed(hidden_ND, weight_VD, bias_V)
    found_NC = hidden_ND.new_empty(len(hidden_ND), 3 + 2 * count, dtype=torch.float32)
    with torch.autocast(kind, enabled=False):
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            wide_CV, _ = scaled(logits_CV, options)
            lse_C1 = wide_CV.logsumexp(1, keepdim=True)
            top_CK, id_CK = wide_CV[:, : words or None].topk(count, 1)
            logprob_C1 = wide_CV.gather(1, target_N[at, None]) - lse_C1
            rest_C1 = wide_CV.scatter_(1, id_CK, -torch.inf).logsumexp(1, keepdim=True)
            found_NC[at] = torch.cat([logprob_C1, lse_C1, rest_C1 - lse_C1, id_CK.float(), top_CK - lse_C1], 1)
    return found_NC


def as_computed(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The operands of an output layer in the dtype that autocast computes them in."""
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def chunk_tokens(vocab: int, device: torch.device) -> int:
    """Tokens per chunk: on CPUs about what caches hold, on GPUs (1 GiB of float32) what keeps the products large."""
    return max(256, min(1024, 2**22 // vocab)) if device.type == "cpu" else max(512, 2**28 // vocab)


class _Announced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, target_N: Any, options: LossOptions, announced: Announced
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprob_N, lse_N = _empty_scores(hidden_ND)
        sums = Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            weight_C = announced.weight_N[at].float()
            if options.fused:
                logprob_N[at], lse_N[at] = _fused()[0](logits_CV, target_N[at], options)
                by_lse_C = 2 * announced.z_loss * weight_C * lse_N[at]
                slope_CV = _fused()[1](logits_CV, target_N[at], options, lse_N[at], -weight_C, by_lse_C)
            else:
                wide_CV, bend_CV = scaled(logits_CV, options)
                logprob_N[at], lse_N[at], sum_C = _exponentials(wide_CV, target_N[at])
                factor_C = weight_C * (1 + 2 * announced.z_loss * lse_N[at]) / sum_C
                slope_CV = _slope(wide_CV, bend_CV, target_N[at], factor_C, -weight_C, options.temperature)
            sums.add(at, slope_CV.to(hidden_ND.dtype), hidden_ND, weight_VD)
        ctx.sums, ctx.weight_N = sums, announced.weight_N.float()
        return logprob_N, lse_N

    @staticmethod
    def backward(ctx: Any, by_logprob_N: torch.Tensor, by_lse_N: torch.Tensor) -> Any:
        weight_N, sums = ctx.weight_N, ctx.sums
        scale = -(by_logprob_N * weight_N).sum() / weight_N.square().sum().clamp_min(1e-30)
        # a NaN passes: the norm of the gradients will tell
        far = (by_logprob_N + scale * weight_N).abs().sum() > 1e-3 * by_logprob_N.abs().sum()
        assert_on_device(~far, "the loss is not the weighted sum of log-probabilities that its objective announced")
        ctx.sums = None  # they are scaled in place: a second backward pass must fail, not return twice the scale
        return *sums.scaled(scale), None, None, None


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, target_N: Any, options: LossOptions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprob_N, lse_N = _empty_scores(hidden_ND)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            if options.fused:
                logprob_N[at], lse_N[at] = _fused()[0](logits_CV, target_N[at], options)
            else:
                logprob_N[at], lse_N[at], _ = _exponentials(scaled(logits_CV, options)[0], target_N[at])
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, lse_N)
        ctx.options = options
        return logprob_N, lse_N

    @staticmethod
    def backward(ctx: Any, by_logprob_N: torch.Tensor, by_lse_N: torch.Tensor) -> Any:
        hidden_ND, weight_VD, bias_V, target_N, lse_N = ctx.saved_tensors
        options, sums = ctx.options, Gradients(hidden_ND, weight_VD, bias_V, ctx.needs_input_grad)
        for at, logits_CV in chunk_logits(hidden_ND, weight_VD, bias_V):
            if options.fused:
                slope_CV = _fused()[1](logits_CV, target_N[at], options, lse_N[at], by_logprob_N[at], by_lse_N[at])
            else:
                wide_CV, bend_CV = scaled(logits_CV, options)
                wide_CV.sub_(lse_N[at, None]).exp_()
                factor_C, of_target_C = by_lse_N[at] - by_logprob_N[at], by_logprob_N[at]
                slope_CV = _slope(wide_CV, bend_CV, target_N[at], factor_C, of_target_C, options.temperature)
            sums.add(at, slope_CV.to(hidden_ND.dtype), hidden_ND, weight_VD)
        return *sums.scaled(None), None, None


class Gradients:
    """Of the three operands, added up over chunks; None for those that need none."""

    def __init__(self, hidden_ND: Any, weight_VD: Any, bias_V: Any, needs: Any) -> None:
        self.hidden_ND = torch.empty_like(hidden_ND) if needs[0] else None
        self.weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs[1] else None
        self.bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if needs[2] else None
        self._dtype = weight_VD.dtype

    def add(self, at: slice, slope_CV: torch.Tensor, hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> None:
        """Take the gradient of one chunk's logits."""
        if self.hidden_ND is not None:
            torch.mm(slope_CV, weight_VD, out=self.hidden_ND[at])
        if self.weight_VD is not None:
            if slope_CV.dtype == torch.float32:
                self.weight_VD.addmm_(slope_CV.t(), hidden_ND[at])
            else:
                self.weight_VD += slope_CV.t() @ hidden_ND[at]
        if self.bias_V is not None:
            self.bias_V += slope_CV.sum(0, dtype=torch.float32)

    def scaled(self, scale: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The gradients times `scale`, in the operands' dtypes. Once only: they are scaled in place."""
        found = [self.hidden_ND, self.weight_VD, self.bias_V]
        if scale is not None:
            found = [each if each is None else each.mul_(scale) for each in found]
        return [each if each is None else each.to(self._dtype) for each in found]


def chunk_logits(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: Any) -> Iterator[tuple[slice, torch.Tensor]]:
    """The logits of each chunk, in one buffer that the next chunk takes over."""
    size = min(chunk_tokens(len(weight_VD), hidden_ND.device), max(len(hidden_ND), 1))
    buffer_CV = hidden_ND.new_empty(size, len(weight_VD))
    for start in range(0, len(hidden_ND), size):
        at = slice(start, min(start + size, len(hidden_ND)))
        logits_CV = torch.mm(hidden_ND[at], weight_VD.t(), out=buffer_CV[: at.stop - at.start])
        yield at, logits_CV if bias_V is None else logits_CV.add_(bias_V)


def _empty_scores(hidden_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32), hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)


def scaled(logits_CV: torch.Tensor, options: LossOptions) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `_wide` returns, in place of the logits where these are float32; and the derivative of the cap, where there is one."""
    wide_CV, bend_CV = logits_CV.float(), None
    if options.cap:
        bend_CV = 1 - wide_CV.div_(options.cap).tanh_().square()
        wide_CV.mul_(options.cap)
    return wide_CV if options.temperature == 1.0 else wide_CV.div_(options.temperature), bend_CV


def _exponentials(wide_CV: torch.Tensor, target_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability, log-sum-exp, and the sum of exp(logits - largest), which take the place of the logits."""
    of_target_C = wide_CV.gather(1, target_C[:, None])[:, 0]
    top_C1 = wide_CV.amax(1, keepdim=True)
    sum_C = wide_CV.sub_(top_C1).exp_().sum(1)
    lse_C = top_C1[:, 0] + sum_C.log()
    return of_target_C - lse_C, lse_C, sum_C


def _slope(
    wide_CV: torch.Tensor,
    bend_CV: torch.Tensor | None,
    target_C: torch.Tensor,
    factor_C: torch.Tensor,
    of_target_C: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """`wide * factor`, and `of_target` more at the target: the gradient of the logits, in place."""
    wide_CV.mul_((factor_C / temperature)[:, None])
    wide_CV.scatter_add_(1, target_C[:, None], (of_target_C / temperature)[:, None])
    return wide_CV if bend_CV is None else wide_CV.mul_(bend_CV)


def _wide(logits_CV: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Logits as the model draws with them, float32."""
    wide_CV = logits_CV.float()
    if options.cap:
        wide_CV = options.cap * (wide_CV / options.cap).tanh()
    return wide_CV / options.temperature


@cache
def _fused() -> tuple[Any, Any]:
    return torch.compile(_score_chunk, dynamic=True), torch.compile(_slope_chunk, dynamic=True)


def _score_chunk(logits_CV: torch.Tensor, target_C: torch.Tensor, options: LossOptions) -> tuple[torch.Tensor, torch.Tensor]:
    wide_CV = _wide(logits_CV, options)
    lse_C = wide_CV.logsumexp(1)
    return wide_CV.gather(1, target_C[:, None])[:, 0] - lse_C, lse_C


def _slope_chunk(
    logits_CV: torch.Tensor,
    target_C: torch.Tensor,
    options: LossOptions,
    lse_C: torch.Tensor,
    by_logprob_C: torch.Tensor,
    by_lse_C: torch.Tensor,
) -> torch.Tensor:
    share_CV = (_wide(logits_CV, options) - lse_C[:, None]).exp()
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == target_C[:, None]
    slope_CV = share_CV * (by_lse_C - by_logprob_C)[:, None] + torch.where(is_target_CV, by_logprob_C[:, None], 0.0)
    if options.cap:
        slope_CV = slope_CV * (1 - (logits_CV.float() / options.cap).tanh().square())
    # a scatter would be a kernel of its own; the comparison is fused into this one
    return logits_CV.copy_(slope_CV / options.temperature)
