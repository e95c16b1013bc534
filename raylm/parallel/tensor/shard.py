"""Tensor parallelism: shards a model's matrices over ranks; callers see the model unchanged.

               ranks have all tokens           sequence parallel: own tokens only
embedding      all-reduce
first block                                    scatter_to_sequence
norms          replicated                      replicated, gradients summed
input          copy_to_region                  gather_from_sequence
column         own heads, own channels
row            reduce_from_region              reduce_scatter_to_sequence
last block                                     gather_from_region
head           log-probabilities over all ranks' words

Weights become DTensors, so that names, checkpoints and FSDP know which part a rank holds; computing is on local tensors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.functional import embedding, linear

from raylm.core.errors import ConfigError
from raylm.model.vocab_parallel import Part
from raylm.parallel.blocks import runs
from raylm.parallel.collectives import (
    copy_to_region,
    gather_from_region,
    gather_from_sequence,
    reduce_from_region,
    reduce_scatter_to_sequence,
    scatter_to_sequence,
)
from raylm.parallel.mesh import Grid
from raylm.parallel.tensor.plans import plan_of, style_of

SHARD_DIM = {"column": 0, "row": 1, "embedding": 0, "head": 0}


class Across:
    """The tensor parallel ranks, and the number of tokens of the rows in the running forward pass."""

    def __init__(self, mesh: Any, sequence: bool) -> None:
        self.mesh, self.sequence, self.group = mesh, sequence, mesh.get_group()
        self.tokens = 0


def shard_matrices(model: torch.nn.Module, grid: Grid) -> None:
    """Shard `model` in place over `grid.mesh.tensor` ranks; parameters may be on the meta device.

    Raises:
        ConfigError: the family has no plan, a size does not divide, or a module with weights is not in the plan.
    """
    config: Any = model.config
    plan = plan_of(config, grid.mesh.tensor)
    across = Across(grid.torch("tensor"), grid.mesh.sequence)
    seen: dict[int, torch.nn.Parameter] = {}
    for name, module in list(model.named_modules()):
        style = style_of(name, plan)
        if style == "input":
            # experts work on single tokens: scattered tokens stay scattered
            if not hasattr(module, "experts"):
                module.register_forward_pre_hook(_input_hook(across), with_kwargs=True)
        elif any(p is not None for p in module._parameters.values()):
            if style is None:
                raise ConfigError(
                    f"the tensor parallel plan of {config.model_type!r} does not shard {name} ({type(module).__name__})",
                    next="set mesh.tensor = 1",
                )
            _shard_module(module, style, across, seen)
    for run in runs(model) if across.sequence else ():
        run[0].register_forward_pre_hook(_scatter_hook(across), with_kwargs=True)
        run[-1].register_forward_hook(_gather_hook(across))


def _shard_module(module: Any, style: str, across: Across, seen: dict[int, torch.nn.Parameter]) -> None:
    """Turn the module's parameters into DTensors (tied ones stay tied); its class then computes with their local shards."""
    for name, whole in list(module._parameters.items()):
        if whole is None:
            continue
        if id(whole) not in seen:
            # the bias of a row is added after the sum
            seen[id(whole)] = _shard(whole, SHARD_DIM.get(style) if whole.dim() > SHARD_DIM.get(style, 0) else None, across.mesh)
        module._parameters[name] = seen[id(whole)]
    if style == "tokens":
        style = "summed" if across.sequence else "whole"
    names = tuple(module._parameters)
    module.__class__ = _local_class(type(module), style, names)
    module.across = across
    if style in ("embedding", "head"):
        part = Part(across.group, module._parameters["weight"].to_local().shape[0] * across.mesh.get_local_rank())
        module.vocab_parallel = part


def _shard(whole: torch.nn.Parameter, dim: int | None, mesh: Any) -> torch.nn.Parameter:
    """This rank's shard of a parameter along `dim` (None: all of it)."""
    local = whole.detach()
    if dim is not None:
        # a copy: a view would keep the whole in memory
        local = local.chunk(mesh.size(), dim)[mesh.get_local_rank()].clone(memory_format=torch.contiguous_format)
    placement = Replicate() if dim is None else Shard(dim)
    sharded = DTensor.from_local(local, mesh, [placement], run_check=False, shape=whole.shape, stride=whole.stride())
    return torch.nn.Parameter(sharded, requires_grad=whole.requires_grad)


@cache
def _local_class(kind: type, style: str, names: tuple[str, ...]) -> type:
    """`kind` with properties for its parameters, which give the local shard where only the tensor ranks shard them."""

    def reader(name: str) -> property:
        def read(self: Any) -> torch.Tensor | None:
            kept = self._parameters[name]
            # FSDP reads its own shards, on a mesh of more than the tensor ranks, by this name too
            if not isinstance(kept, DTensor) or kept.device_mesh.ndim > 1:
                return kept
            local: Any = kept.to_local()
            summed = style == "summed" or (style == "row" and name == "bias" and self.across.sequence)
            return copy_to_region(local, self.across.group) if summed and local.requires_grad else local

        return property(read)

    members: dict[str, Any] = {name: reader(name) for name in names}
    forwards = {"row": _row_forward, "embedding": _embedding_forward, "head": _head_forward}
    if style in forwards:
        members["forward"] = forwards[style]
    return type(f"Tensor{kind.__name__}", (kind,), members)


def _row_forward(self: Any, own_BTD: torch.Tensor) -> torch.Tensor:
    out_BTD = linear(own_BTD, self.weight)
    out_BTD = (
        reduce_scatter_to_sequence(out_BTD, self.across.group)
        if self.across.sequence
        else reduce_from_region(out_BTD, self.across.group)
    )
    return out_BTD if self.bias is None else out_BTD + self.bias


def _embedding_forward(self: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    weight_VD = self.weight
    place_BT = tokens_BT - self.vocab_parallel.offset
    mine_BT = (place_BT >= 0) & (place_BT < len(weight_VD))
    padding = self.padding_idx
    if padding is not None:
        padding = padding - self.vocab_parallel.offset
        padding = padding if 0 <= padding < len(weight_VD) else None
    rows_BTD = embedding(place_BT.where(mine_BT, 0), weight_VD, padding) * mine_BT[..., None]
    return reduce_from_region(rows_BTD, self.across.group)


def _head_forward(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
    """All logits, for a caller that does not ask the head for log-probabilities."""
    logits_BTV = linear(copy_to_region(hidden_BTD, self.across.group), self.weight, self.bias)
    return gather_from_region(logits_BTV.transpose(1, 2), self.out_features, self.across.group).transpose(1, 2)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any], change: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


def _input_hook(across: Across) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        if across.sequence:
            return _first(args, kwargs, lambda own_BSD: gather_from_sequence(own_BSD, across.tokens, across.group))
        return _first(args, kwargs, lambda hidden_BTD: copy_to_region(hidden_BTD, across.group))

    return hook


def _scatter_hook(across: Across) -> Any:
    def own(hidden_BTD: torch.Tensor) -> torch.Tensor:
        across.tokens = hidden_BTD.shape[1]
        return scatter_to_sequence(hidden_BTD, across.group)

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        return _first(args, kwargs, own)

    return hook


def _gather_hook(across: Across) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (gather_from_region(output[0], across.tokens, across.group), *output[1:])
        return gather_from_region(output, across.tokens, across.group)

    return hook
