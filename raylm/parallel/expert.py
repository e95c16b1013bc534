"""Expert parallelism: each rank holds a share of the experts; tokens are dispatched to them and combined by all-to-all.

tokens --(k experts each)--> copies in order of experts --all-to-all--> the experts' ranks --all-to-all--> weighted sum

Shapes: T tokens of this rank, K experts per token, N experts, E ranks that share them, D width, R rows that arrive here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard

from raylm.core.errors import ConfigError
from raylm.model.transformers_private import apply_gate
from raylm.parallel.collectives import copy_to_region
from raylm.parallel.mesh import Grid


def spread_experts(model: torch.nn.Module, grid: Grid) -> None:
    """Keep N / E whole experts of every layer on each rank of `grid.mesh.expert`; names stay, parameters become DTensors.

    Raises:
        ConfigError: the model has no experts, ranks do not divide them, or their weights are not [N, out, in].
    """
    config: Any = model.config
    sparse = grid.sparse()
    mesh = sparse["expert"] if grid.mesh.tensor == 1 else sparse["expert", "tensor"]
    ranks = grid.mesh.expert
    experts_by_name = [(name, module) for name, module in model.named_modules() if _is_experts(module)]
    if not experts_by_name:
        raise ConfigError(f"mesh.expert = {ranks}: a model of type {config.model_type!r} has no experts to share")
    for name, module in experts_by_name:
        experts: Any = module
        if getattr(experts, "is_transposed", False) or getattr(experts, "has_bias", False) or not experts.has_gate:
            raise ConfigError(
                f"the experts of {config.model_type!r} cannot be shared: {name} is not [experts, out, in] without bias"
            )
        if experts.num_experts % ranks:
            raise ConfigError(f"mesh.expert = {ranks} does not divide the model's {experts.num_experts} experts")
        for parameter, whole in list(experts._parameters.items()):
            experts._parameters[parameter] = _share(whole, mesh)
        experts.__class__ = _spread_class(type(experts))
        experts.expert_group = sparse["expert"].get_group()


def shard_experts(model: torch.nn.Module, grid: Grid, policy: Any, **options: Any) -> None:
    """Give each layer's experts an FSDP group of their own: the ranks that hold the same experts.

    Args:
        policy: FSDP's mixed precision of the rest of the model.
        options: of `fully_shard`.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    sparse = grid.sparse()
    mesh = sparse["expert_shard"] if grid.mesh.replicas == 1 else sparse["replicas", "expert_shard"]
    shards = sparse["expert_shard"].size()
    # inputs are cast where they meet the weights: the weights of the sum stay as exact as the router made them
    policy = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, policy.output_dtype, cast_forward_inputs=False)
    for module in list(model.modules()):
        if not hasattr(module, "expert_group"):
            continue
        experts: Any = module
        # whole experts where there are enough for all, else a slice of each
        dim = 0 if experts.num_experts % (shards * grid.mesh.expert) == 0 else 1
        fully_shard(experts, mesh=mesh, mp_policy=policy, shard_placement_fn=lambda _, dim=dim: Shard(dim), **options)
        # tokens of all expert ranks are in these gradients already, so it is not the group's size that makes the mean
        experts.set_gradient_divide_factor(float(grid.averaged))
        if shards > 1:
            # without it FSDP asks for a scaled sum, which gloo has not; a group of one is divided apart, and would be twice
            experts.set_force_sum_reduction_for_comms(True)


def _is_experts(module: Any) -> bool:
    weights = [module._parameters.get(name) for name in ("gate_up_proj", "down_proj")]
    return all(weight is not None and weight.dim() == 3 for weight in weights)


def _share(whole: torch.nn.Parameter, mesh: Any) -> torch.nn.Parameter:
    """This rank's experts of a parameter [N, ...]; tensor ranks, the mesh's second dimension, hold the same."""
    local: Any = whole.to_local() if isinstance(whole, DTensor) else whole
    # a copy: a view would keep the whole in memory
    local = local.detach().chunk(mesh.size(0), 0)[mesh.get_local_rank(0)].clone()
    places = [Shard(0), Replicate()][: mesh.ndim]
    sharded = DTensor.from_local(local, mesh, places, run_check=False, shape=whole.shape, stride=whole.stride())
    return torch.nn.Parameter(sharded, requires_grad=whole.requires_grad)


@cache
def _spread_class(kind: type) -> type:
    return type(f"Spread{kind.__name__}", (kind,), {"forward": _forward})


def _forward(self: Any, hidden_TD: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the chosen experts' outputs for each token [T, D]."""
    group, ranks = self.expert_group, dist.get_world_size(self.expert_group)
    expert_C = expert_TK.flatten()
    order_C = expert_C.argsort(stable=True)
    leaving_EN = expert_C.bincount(minlength=self.num_experts).view(ranks, -1)
    arriving_EN = torch.empty_like(leaving_EN)
    dist.all_to_all_single(arriving_EN, leaving_EN, group=group)
    sizes = torch.stack([leaving_EN.sum(1), arriving_EN.sum(1)]).tolist()

    weights = (_held(self, "gate_up_proj"), _held(self, "down_proj"))
    copies_CD = hidden_TD.to(weights[0].dtype)[order_C // expert_TK.shape[1]]
    rows_RD = _AllToAll.apply(copies_CD, *sizes, group)
    # rows arrive rank by rank, experts need theirs side by side
    place_N = torch.arange(arriving_EN.shape[1], device=hidden_TD.device).repeat(ranks)
    order_R = place_N.repeat_interleave(arriving_EN.flatten()).argsort(stable=True)
    out_RD = _by_expert(self, rows_RD[order_R], arriving_EN.sum(0), *weights)
    out_CD = _AllToAll.apply(out_RD[order_R.argsort()], *reversed(sizes), group)
    out_TKD = out_CD[order_C.argsort()].view(*expert_TK.shape, -1)
    return (out_TKD * weight_TK[..., None]).sum(1).to(hidden_TD.dtype)


def _held(self: Any, name: str) -> torch.Tensor:
    """This rank's experts of a parameter, as FSDP gathered it."""
    local = self._parameters[name].to_local()
    across = getattr(self, "across", None)
    # tensor ranks with tokens of their own: the gradient is the sum over them
    return copy_to_region(local, across.group) if across is not None and across.sequence and local.requires_grad else local


def _by_expert(
    self: Any, rows_RD: torch.Tensor, count_N: torch.Tensor, up_NID: torch.Tensor, down_NDI: torch.Tensor
) -> torch.Tensor:
    """Each expert's outputs on its rows, which are side by side."""
    from torch.nn.functional import grouped_mm, linear

    if len(rows_RD) and _fits_grouped(rows_RD, down_NDI):
        ends_N = count_N.cumsum(0, dtype=torch.int32)
        wide = grouped_mm(rows_RD, up_NID.transpose(1, 2), offs=ends_N)
        return grouped_mm(apply_gate(self, wide), down_NDI.transpose(1, 2), offs=ends_N)
    # an expert without rows computes too: its gradient must be zero and not absent, as FSDP reduces it over ranks
    parts = rows_RD.split(count_N.tolist())
    outputs = [linear(apply_gate(self, linear(part, up)), down) for part, up, down in zip(parts, up_NID, down_NDI, strict=True)]
    return torch.cat(outputs)


def _fits_grouped(rows_RD: torch.Tensor, down_NDI: torch.Tensor) -> bool:
    """Whether the grouped kernel supports these: rows of whole 16 bytes, GPUs from Ampere on."""
    whole = all(size * rows_RD.element_size() % 16 == 0 for size in down_NDI.shape[1:])
    return whole and not (rows_RD.is_cuda and torch.cuda.get_device_capability(rows_RD.device) < (8, 0))


class _AllToAll(torch.autograd.Function):
    """Sends rows to the ranks of their experts, `leaving` many to each and `arriving` many from each; gradients in reverse."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, leaving: list[int], arriving: list[int], group: Any) -> torch.Tensor:
        ctx.reverse = (arriving, leaving, group)
        return _all_to_all(rows, leaving, arriving, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _all_to_all(gradient, *ctx.reverse), None, None, None


def _all_to_all(rows: torch.Tensor, leaving: list[int], arriving: list[int], group: Any) -> torch.Tensor:
    received = rows.new_empty(sum(arriving), rows.shape[1])
    dist.all_to_all_single(received, rows.contiguous(), arriving, leaving, group=group)
    return received
