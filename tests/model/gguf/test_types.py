"""Types of tensors: which one by part and width, and bytes that gguf's own dequantizers read back."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from raylm.core.errors import ConfigError
from raylm.model.gguf.types import Chosen, choose, encode, row_bytes

VALUES = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "width", "dtype", "chosen"),
    [
        ("blk.0.attn_norm.weight", 256, "q4_0", Chosen("F32")),
        ("blk.0.attn_q.weight", 256, "f16", Chosen("F16")),
        ("blk.0.ffn_gate_inp.weight", 256, "q8_0", Chosen("F32")),
        ("blk.1.attn_q.weight", 256, "q4_k_m", Chosen("Q4_K")),
        ("blk.1.attn_v.weight", 256, "q4_k_m", Chosen("Q4_K")),
        ("blk.3.attn_v.weight", 256, "q4_k_m", Chosen("Q6_K")),
        ("blk.7.ffn_down.weight", 256, "q4_k_m", Chosen("Q6_K")),
        ("token_embd.weight", 256, "q4_k_m", Chosen("Q6_K")),
        ("token_embd.weight", 256, "q4_0", Chosen("Q6_K")),
        ("token_embd.weight", 192, "q4_k_m", Chosen("Q8_0", "Q6_K")),
        ("blk.1.attn_q.weight", 192, "q4_k_m", Chosen("Q5_0", "Q4_K")),
        ("blk.1.attn_q.weight", 48, "q8_0", Chosen("F16", "Q8_0")),
    ],
)
def test_a_type_is_chosen_by_part_and_width(name, width, dtype, chosen):
    shape = (width,) if "norm" in name else (8, width)
    assert choose(name, shape, dtype, num_layers=8, tied=True) == chosen


@pytest.mark.parametrize(
    ("kind", "most"),
    [("F32", 0.0), ("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 0.02), ("Q5_0", 0.2), ("Q4_0", 0.4), ("Q6_K", 0.12), ("Q4_K", 0.4)],
)
def test_bytes_are_read_back_by_gguf(kind, most):
    if kind in ("Q4_K", "Q6_K"):
        pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")
    made = encode(VALUES.reshape(2, 3, 256), kind)
    assert made.nbytes == 6 * row_bytes(kind, 256)
    read = made if kind in ("F32", "F16") else gguf.dequantize(made, gguf.GGMLQuantizationType[kind])
    assert read.shape == (2, 3, 256)
    apart = np.abs(read.astype(np.float32).reshape(6, 256) - VALUES)
    assert apart.max() <= most
    # something is lost where bits are few
    assert apart.max() > 0 or kind == "F32"


def test_what_a_type_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="a has values that float16 cannot hold"):
        encode(np.full((1, 32), 1e5, np.float32), "F16", "a")
    with pytest.raises(ConfigError, match="a has values that are not finite"):
        encode(np.full((1, 32), np.nan, np.float32), "Q8_0", "a")
