"""Takes activations on ranks that share matrices, leaves them summed, gathered or cut, with the gradient that belongs to each.

            forward                        backward
enter       identity                       sum over ranks
leave       sum over ranks                 identity
gather      join the ranks' tokens         sum over ranks, keep own tokens
reduce      sum over ranks, keep own       join the ranks' tokens
cut         keep own tokens                join the ranks' tokens
join        join the ranks' tokens         keep own tokens

`enter` and `leave` are f and g of Megatron (https://arxiv.org/abs/1909.08053), `gather` and `reduce` its sequence parallel pair
(https://arxiv.org/abs/2205.05198). Shapes: B rows, T tokens, S tokens of one rank (T / ranks, rounded up), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional


def enter(values: torch.Tensor, group: Any) -> torch.Tensor:
    """What is the same on all ranks goes into a part that each computes differently: gradients add up. Weights too."""
    return _Enter.apply(values, group)


def leave(values: torch.Tensor, group: Any) -> torch.Tensor:
    """Each rank's part of a sum becomes the sum."""
    return _Leave.apply(values, group)


def gather(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    """Own tokens become all `tokens` [B, T, D], for a part that each rank computes differently."""
    return _Gather.apply(values_BSD, tokens, group)


def reduce(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    """Each rank's part of a sum [B, T, D] becomes the sum of own tokens [B, S, D]."""
    return _Reduce.apply(values_BTD, group)


def cut(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    """Own tokens [B, S, D] of what is the same on all ranks; the last ranks' are filled up with zeros."""
    return _Cut.apply(values_BTD, group)


def join(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    """Own tokens become all `tokens` [B, T, D], for a part that is the same on all ranks."""
    return _Join.apply(values_BSD, tokens, group)


def _summed(values: torch.Tensor, group: Any) -> torch.Tensor:
    return _awaited(functional.all_reduce(values.contiguous(), "sum", group))


def _joined(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    return _awaited(functional.all_gather_single(values_BSD.contiguous(), 1, group))[:, :tokens]


def _filled(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    missing = -values_BTD.shape[1] % dist.get_world_size(group)
    return torch.nn.functional.pad(values_BTD, (0, 0, 0, missing)) if missing else values_BTD


def _own(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    return _filled(values_BTD, group).chunk(dist.get_world_size(group), 1)[dist.get_rank(group)].contiguous()


def _own_sum(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    return _awaited(functional.reduce_scatter_single(_filled(values_BTD, group).contiguous(), "sum", 1, group))


def _awaited(values: torch.Tensor) -> torch.Tensor:
    return functional.wait_tensor(values)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _summed(gradient, ctx.group), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        return _summed(values, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
        ctx.group = group
        return _joined(values_BSD, tokens, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own_sum(gradient, ctx.group), None, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, ctx.tokens = group, values_BTD.shape[1]
        return _own_sum(values_BTD, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _joined(gradient, ctx.tokens, ctx.group), None


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, ctx.tokens = group, values_BTD.shape[1]
        return _own(values_BTD, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _joined(gradient, ctx.tokens, ctx.group), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
        ctx.group = group
        return _joined(values_BSD, tokens, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own(gradient, ctx.group), None, None
