"""The `int4` method: rounding in groups, and a group size that does not divide is refused."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

from raylm.compress.methods.int4 import Int4
from raylm.core.errors import ConfigError
from tests.compress.small import rounded
from tests.model.tiny import tiny_model


def test_every_weight_is_within_half_a_scale_of_its_group(tmp_path):
    found = rounded(Int4(group_size=32), tmp_path)
    packed = [name.removesuffix("_packed") for name in found.stored if name.endswith("weight_packed")]
    assert len(packed) == 7
    for name in packed:
        weight = found.original[name].bfloat16().float()
        scale = found.stored[f"{name}_scale"].float().repeat_interleave(32, dim=1)
        whole = unpack_from_int32(found.stored[f"{name}_packed"], 4, weight.shape).float() * scale
        # up to 7.5 scales, divided and stored in bfloat16 (8 bits), are off by another 2 * 7.5 / 2**8 scales
        assert bool(((whole - weight).abs() <= scale * 0.56).all()), name
    assert found.divergence() < 1e-2
    assert found.agreement() > 0.8


def test_a_group_that_does_not_divide_a_layers_width_is_refused():
    model = tiny_model(vocab=300, layers=1)
    with pytest.raises(ConfigError, match=r"q_proj has 64 inputs, no multiple of group_size 128"):
        Int4().apply(model, None)
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
