"""The `fp8` method: e4m3 weights within half a step of their own, logits near the original's."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.config import Compress
from raylm.compress.methods.fp8 import Fp8
from raylm.compress.stage import compress
from tests.compress.small import rounded
from tests.model.tiny import tiny_checkpoint


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_weights_have_three_bits_behind_the_point(tmp_path, activations):
    found = rounded(Fp8(activations=activations), tmp_path)
    names = [name for name, tensor in found.stored.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(names) == 7
    for name in names:
        scale, weight = found.stored[f"{name}_scale"], found.original[name]
        error = (found.stored[name].float() * scale - weight).abs()
        # 3 bits of mantissa, or half of the smallest step near zero
        assert bool((error <= weight.abs() / 16 * 1.01 + scale * 2**-10 * 1.01).all()), name
    assert ("model.layers.0.mlp.up_proj.input_scale" in found.stored) is (activations == "static")
    assert found.divergence() < 5e-3 and found.agreement() > 0.85


def test_the_stage_counts_them_as_rounded(tmp_path):
    path = str(tiny_checkpoint(tmp_path / "base", vocab=300, layers=1))
    done = compress(Compress(stage="compress", model=path, method={"kind": "fp8"}), path, None, str(tmp_path / "out"))
    assert done.facts["rounded_share"] > 0.7 and list(done.facts["left"]) == ["model.embed_tokens.weight"]
    assert done.metrics["size_ratio"] > 1.5
