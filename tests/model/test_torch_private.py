"""The private interfaces of torch, against the version that they were read in."""

from __future__ import annotations

import json

import torch

from raylm.model import torch_private

READ_IN = "2.13"


def test_torch_is_the_version_whose_private_parts_were_read():
    assert torch.__version__.startswith(f"{READ_IN}."), (
        f"torch {torch.__version__}: read what raylm/model/torch_private.py uses of it again, then change READ_IN"
    )


def test_private_names_are_there():
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.distributed._composable.replicate_with_fsdp import replicate
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
    from torch.distributed.checkpoint.state_dict import _init_optim_state
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
    from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState, FSDPStateContext
    from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

    assert all(map(callable, (get_cpp_compiler, replicate, FsspecReader, FsspecWriter, _init_optim_state, DeviceMesh._flatten)))
    assert all(map(callable, (stage_backward_input, stage_backward_weight, FSDPParamGroup.post_backward)))
    assert callable(FSDPState._root_post_backward_final_callback) and FSDPStateContext().all_states == []


def test_what_they_answer():
    assert not torch_private.in_backward()
    seen = []
    leaf = torch.ones(1, requires_grad=True)
    leaf.register_hook(lambda _: seen.append(torch_private.in_backward()))
    leaf.sum().backward()
    assert seen == [True]
    assert torch.stack(torch_private.foreach_norm([torch.full((4,), 2.0)])).tolist() == [4.0]
    assert all(isinstance(json.loads(record or b"{}"), dict) for record in torch_private.flight_records(entries=False))
    torch_private.assert_on_device(torch.tensor(True), "never")
