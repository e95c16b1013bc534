"""What raylm uses of torch's private interfaces, all in one place; tests/model/test_torch_private.py names the version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_aten = torch.ops.aten
scaled_mm = _aten._scaled_mm
flash_attention = _aten._scaled_dot_product_flash_attention
flash_attention_backward = _aten._scaled_dot_product_flash_attention_backward
flash_attention_cpu = _aten._scaled_dot_product_flash_attention_for_cpu
flash_attention_cpu_backward = _aten._scaled_dot_product_flash_attention_for_cpu_backward
# operations on lists of tensors, in one kernel each
foreach_norm: Any = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]
foreach_mul_: Any = torch._foreach_mul_  # pyright: ignore[reportPrivateImportUsage]


def assert_on_device(condition: torch.Tensor, message: str) -> None:
    """Fail where `condition` is false, without making the host wait for the device."""
    _aten._assert_async.msg(condition, message)


def in_backward() -> bool:
    """Whether this thread runs a backward pass: a forward pass inside one computes again what was seen."""
    return torch._C._current_graph_task_id() != -1


def missing_cpp_compilers() -> list[str]:
    """Names of the C++ compilers that inductor looked for in vain; [] where it has one."""
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return [str(name) for name in config.cpp.cxx if name]
    return []


def flight_records(entries: bool) -> Iterator[bytes]:
    """JSON of what each kind of process group recorded of its collectives."""
    from torch._C import _distributed_c10d as c10d

    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        if dump := getattr(c10d, name, None):
            yield dump(includeCollectives=entries, onlyActive=False)


def replicate(module: torch.nn.Module, mesh: DeviceMesh) -> None:
    """DDP of parameters that may be DTensors."""
    from torch.distributed._composable.replicate_with_fsdp import replicate as torchs

    torchs(module, mesh=mesh)


def flatten_mesh(mesh: DeviceMesh, name: str) -> DeviceMesh:
    """All dimensions of `mesh` as one, called `name`."""
    return mesh._flatten(name)


def init_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state of an optimizer by a step without effect, which counts."""
    from torch.distributed.checkpoint.state_dict import _init_optim_state

    _init_optim_state(optimizer)


def fsspec_writer(uri: str) -> Any:
    """What distributed checkpoints are written to a bucket with."""
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    return FsspecWriter(uri)


def fsspec_reader(uri: str) -> Any:
    """What distributed checkpoints are read from a bucket with."""
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(uri)


def backward_of_input(outputs: Any, gradients: Any, inputs: Any, weights: Iterator[torch.nn.Parameter]) -> Any:
    """The half of a backward pass that gives gradients of inputs, and what the half for weights needs."""
    from torch.distributed.pipelining._backward import stage_backward_input

    return stage_backward_input(outputs, gradients, inputs, weights)


def backward_of_weight(weights: Iterator[torch.nn.Parameter], half: Any) -> None:
    """The half of a backward pass that adds gradients of weights."""
    from torch.distributed.pipelining._backward import stage_backward_weight

    stage_backward_weight(weights, half)


def reduce_fsdp_gradients(model: Any) -> None:
    """Reduce and scatter what FSDP accumulated, as torch.distributed.pipelining does after the passes of a step."""
    from torch.distributed.fsdp import fully_shard

    state: Any = fully_shard.state(model)  # type: ignore[attr-defined]
    for one in state._state_ctx.all_states:
        for group in one._fsdp_param_groups:
            group.post_backward()
    state._root_post_backward_final_callback()
