"""A checkpoint with the values of a rounded file: they are those that the file holds, under the checkpoint's names."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file

from raylm.model.gguf.rounded import rounded_copy
from raylm.model.gguf.write import write_gguf
from tests.model.gguf.small import small

PLACES = {
    # unlike rows of queries and keys these lie in the file as in the checkpoint; gpt2 stores its matrices turned
    "llama": {"blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight", "token_embd.weight": "model.embed_tokens.weight"},
    "gpt2": {"blk.0.ffn_up.weight": "transformer.h.0.mlp.c_fc.weight"},
}


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "q4_0"), ("llama", "q8_0"), ("gpt2", "q4_0")])
def test_the_values_are_those_of_the_file(tmp_path, kind, dtype):
    write_gguf(small(kind), tmp_path / "m.gguf", dtype)
    made = load_file(rounded_copy(small(kind), dtype, tmp_path / "rounded") / "model.safetensors")
    plain = load_file(small(kind) / "model.safetensors")
    assert made.keys() == plain.keys()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for theirs, ours in PLACES[kind].items():
        stored = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        found = made[ours].numpy().T if kind == "gpt2" else made[ours].numpy()
        assert np.array_equal(stored.reshape(found.shape), found) and not made[ours].equal(plain[ours])
    # vectors stay as they are
    assert all(made[name].equal(plain[name]) for name in plain if plain[name].dim() == 1)
    assert (tmp_path / "rounded" / "config.json").read_bytes() == (small(kind) / "config.json").read_bytes()
