"""Collectives on activations with autograd: how tensor and sequence parallel ranks enter and leave sharded regions.

                              forward                      backward
copy_to_region                identity                     all-reduce
reduce_from_region            all-reduce                   identity
gather_from_sequence          all-gather of tokens         reduce-scatter of tokens
reduce_scatter_to_sequence    reduce-scatter of tokens     all-gather of tokens
scatter_to_sequence           keep own tokens              all-gather of tokens
gather_from_region            all-gather of tokens         keep own tokens

Names as in Megatron-LM (there `copy_to_tensor_model_parallel_region`, ...): the first two are f and g of
https://arxiv.org/abs/1909.08053, the next two the sequence parallel pair of https://arxiv.org/abs/2205.05198.
Shapes: B rows, T tokens, S tokens of one rank (T / ranks, rounded up), D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional


def copy_to_region(values: torch.Tensor, group: Any) -> torch.Tensor:
    """Values (or weights) that are equal on all ranks enter a part that each rank computes differently: gradients add up."""
    return _CopyToRegion.apply(values, group)


def reduce_from_region(values: torch.Tensor, group: Any) -> torch.Tensor:
    """Sum of the ranks' partial results."""
    return _ReduceFromRegion.apply(values, group)


def gather_from_sequence(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    """All `tokens` [B, T, D] from own tokens, for a part that each rank computes differently."""
    return _GatherFromSequence.apply(values_BSD, tokens, group)


def reduce_scatter_to_sequence(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    """Own tokens [B, S, D] of the sum of the ranks' partial results [B, T, D]."""
    return _ReduceScatterToSequence.apply(values_BTD, group)


def scatter_to_sequence(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    """Own tokens [B, S, D] of values that are equal on all ranks; the last ranks' are padded with zeros."""
    return _ScatterToSequence.apply(values_BTD, group)


def gather_from_region(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    """All `tokens` [B, T, D] from own tokens, for a part that all ranks compute alike."""
    return _GatherFromRegion.apply(values_BSD, tokens, group)


def _all_reduce(values: torch.Tensor, group: Any) -> torch.Tensor:
    return _wait(functional.all_reduce(values.contiguous(), "sum", group))


def _all_gather(values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
    return _wait(functional.all_gather_single(values_BSD.contiguous(), 1, group))[:, :tokens]


def _padded(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    missing = -values_BTD.shape[1] % dist.get_world_size(group)
    return torch.nn.functional.pad(values_BTD, (0, 0, 0, missing)) if missing else values_BTD


def _own(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    return _padded(values_BTD, group).chunk(dist.get_world_size(group), 1)[dist.get_rank(group)].contiguous()


def _reduce_scatter(values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
    return _wait(functional.reduce_scatter_single(_padded(values_BTD, group).contiguous(), "sum", 1, group))


def _wait(values: torch.Tensor) -> torch.Tensor:
    return functional.wait_tensor(values)


class _CopyToRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_reduce(gradient, ctx.group), None


class _ReduceFromRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        return _all_reduce(values, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


class _GatherFromSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
        ctx.group = group
        return _all_gather(values_BSD, tokens, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _reduce_scatter(gradient, ctx.group), None, None


class _ReduceScatterToSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, ctx.tokens = group, values_BTD.shape[1]
        return _reduce_scatter(values_BTD, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_gather(gradient, ctx.tokens, ctx.group), None


class _ScatterToSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BTD: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, ctx.tokens = group, values_BTD.shape[1]
        return _own(values_BTD, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_gather(gradient, ctx.tokens, ctx.group), None


class _GatherFromRegion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BSD: torch.Tensor, tokens: int, group: Any) -> torch.Tensor:
        ctx.group = group
        return _all_gather(values_BSD, tokens, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _own(gradient, ctx.group), None, None
