"""Reads and writes the tensors of a model under ZeRO by their Hugging Face names.

ZeRO keeps cuts: each rank holds a run of numbers of long vectors, into which all matrices were laid one behind the other.
A step checkpoint keeps rows, as FSDP does, so that any strategy on any number of ranks can read it:

    cuts --(one tensor at a time is whole)--> rows of each rank, DTensor Shard(0) --> file
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.parallel.mesh import Grid

if TYPE_CHECKING:
    import torch


class Partitioned(NamedTuple):
    """A model under ZeRO, as far as its tensors are concerned."""

    bare: Any
    """The model below DeepSpeed's wrapper."""
    zero: Any
    """DeepSpeed's optimizer, which partitions; the fields it is read by are no public interface."""
    optimizer: Any
    """The optimizer inside, whose groups hold vectors in place of parameters."""
    names_in_groups: list[list[str]]
    """Parameters of each group of the optimizer."""
    update: Any
    """Takes a step of the optimizer inside; None where nothing is trained."""
    grid: Grid
    device: torch.device

    def grad_norm(self) -> float:
        """Norm of the whole gradient, before it is clipped."""
        return float(self.zero._global_grad_norm)


def stream(held: Partitioned) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors by name on rank 0's CPU, none elsewhere; trained ones as their float32 masters. Every rank must iterate."""
    from raylm.model.linear_4bit import layers_of

    stored = layers_of(held.bare)
    for name, tensor in held.bare.state_dict(keep_vars=True).items():
        whole = _whole(held, tensor)
        if held.grid.rank == 0:
            yield name, (stored[name].matrix(whole) if name in stored else whole).cpu()


def state(held: Partitioned) -> dict[str, Any]:
    """What `Engine.state` returns, under the same keys; all of it copies. Every rank must call."""
    _make_moments(held)
    scalars, moments = _kept(held)
    model = {
        name: _rows(held, _whole(held, tensor)) if tensor.requires_grad else tensor.detach().clone()
        for name, tensor in held.bare.state_dict(keep_vars=True).items()
        if tensor.requires_grad or not _is_parameter(tensor)
    }
    optimizer: dict[str, Any] = {}
    for name, parameter, group in _trained(held):
        at = f"state.{name}."
        optimizer |= {at + key: value.clone() for key, value in scalars.items()}
        optimizer |= {at + key: _rows(held, _uncut(held, parameter, key)) for key in moments}
        mine = {key: value for key, value in group.items() if key != "params" and not key.startswith("_ds_")}
        optimizer |= {f"param_groups.{name}.{key}": value for key, value in mine.items()}
    return {"model": model, "optimizer": optimizer}


def restore(held: Partitioned, state: dict[str, Any]) -> None:
    """Put back what `state` returned, here or on other ranks, and a reader has filled. Every rank must call."""
    import torch

    _make_moments(held)
    scalars, moments = _kept(held)
    with torch.no_grad():
        for name, tensor in held.bare.state_dict(keep_vars=True).items():
            if not _is_parameter(tensor):
                tensor.copy_(state["model"][name])
        for name, parameter, _ in _trained(held):
            whole = state["model"][name].full_tensor()
            _cut(held, parameter, None, whole)
            _compute_with(parameter, whole)
            for key in moments:
                _cut(held, parameter, key, state["optimizer"][f"state.{name}.{key}"].full_tensor())
            for key in scalars:
                # every number is updated in every step, so all of them share one count of steps
                for kept in held.optimizer.state.values():
                    kept[key].copy_(state["optimizer"][f"state.{name}.{key}"])


def _is_parameter(tensor: torch.Tensor) -> bool:
    import torch

    return isinstance(tensor, torch.nn.Parameter)


def _trained(held: Partitioned) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, parameter and parameter group of all that is trained; the group itself holds vectors in place of parameters."""
    parameters = dict(held.bare.named_parameters())
    for names, group in zip(held.names_in_groups, held.optimizer.param_groups, strict=True):
        for name in names:
            yield name, parameters[name], group


def _vectors(held: Partitioned) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """The float32 vectors that the optimizer updates on this rank, each with its parameter group."""
    zero, groups = held.zero, held.optimizer.param_groups
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # zero 3
        return [(one, groups[zero.sub_group_to_group_id[index]]) for index, one in enumerate(zero.fp32_partitioned_groups_flat)]
    return [(group["params"][0], group) for group in groups]


def _kept(held: Partitioned) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Of the optimizer's state: what there is once (the count of steps), and names of what there is for each number."""
    one = held.optimizer.state[_vectors(held)[0][0]]
    return {key: value for key, value in one.items() if value.dim() == 0}, [key for key, value in one.items() if value.dim()]


def _make_moments(held: Partitioned) -> None:
    """Let the optimizer make its state, which it does in its first step: one with zero gradients and learning rate 0."""
    import torch

    optimizer, vectors = held.optimizer, _vectors(held)
    if all(optimizer.state.get(vector) for vector, _ in vectors):
        return
    before = [(vector, vector.grad) for vector, _ in vectors]
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group |= {"params": [vector for vector, of in vectors if of is group], "lr": 0.0}
    for vector, _ in vectors:
        vector.grad = torch.zeros_like(vector)
    held.update()
    for group, old in groups:
        group |= old
    for vector, gradient in before:
        vector.grad = gradient
        for value in optimizer.state[vector].values():
            value.zero_()


def run_of(held: Partitioned, parameter: Any, key: str | None = None) -> tuple[torch.Tensor, int] | None:
    """This rank's run of a trained parameter (or of one of its moments), a view, and where in the parameter it begins."""
    zero = held.zero
    if hasattr(parameter, "ds_id"):
        index, at, count = zero.grad_position[zero.get_param_id(parameter)]
        vector = zero.fp32_partitioned_groups_flat[index]
        begin = held.grid.rank * count
        # the last cuts reach over the end, so that all are equally long
        count = min(count, parameter.ds_numel - begin)
    else:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        at, count, begin = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel, mapping.lp_fragment_address.start
        vector = held.optimizer.param_groups[mapping.param_group_index]["params"][0]
    if count <= 0:
        return None
    return (vector if key is None else held.optimizer.state[vector][key]).narrow(0, at, count), begin


def _uncut(held: Partitioned, parameter: Any, key: str | None) -> torch.Tensor:
    """A trained parameter, or one of its moments, whole on every rank's device, float32."""
    import torch
    import torch.distributed as dist

    shape = getattr(parameter, "ds_shape", parameter.shape)
    whole = torch.zeros(shape, dtype=torch.float32, device=held.device)
    run = run_of(held, parameter, key)
    if run is not None:
        whole.view(-1).narrow(0, run[1], run[0].numel()).copy_(run[0].detach())
    dist.all_reduce(whole)
    return whole


def _cut(held: Partitioned, parameter: Any, key: str | None, whole: torch.Tensor) -> None:
    """Put this rank's run of `whole` where the optimizer updates it."""
    run = run_of(held, parameter, key)
    if run is not None:
        run[0].copy_(whole.view(-1).narrow(0, run[1], run[0].numel()))


def _compute_with(parameter: Any, whole: torch.Tensor) -> None:
    """Make `whole` what forward and backward passes compute with."""
    if not hasattr(parameter, "ds_id"):
        parameter.data.copy_(whole)
        return
    from deepspeed import zero

    with zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(whole)


def _whole(held: Partitioned, tensor: Any) -> torch.Tensor:
    """A tensor of the model, whole; one that is trained as its float32 master."""
    if _is_parameter(tensor) and tensor.requires_grad:
        return _uncut(held, tensor, None)
    if not hasattr(tensor, "ds_id"):
        return tensor.detach()
    from deepspeed import zero

    with zero.GatheredParameters([tensor]):
        return tensor.detach().clone()


def _rows(held: Partitioned, whole: torch.Tensor) -> torch.Tensor:
    """This rank's rows of `whole` as a distributed tensor."""
    from torch.distributed.tensor import DTensor, Shard

    mesh = held.grid.shard()
    each = -(-whole.shape[0] // mesh.size())
    mine = whole[each * mesh.get_local_rank() : each * (mesh.get_local_rank() + 1)].clone()
    return DTensor.from_local(mine, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
