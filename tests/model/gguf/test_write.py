"""GGUF files of tiny models: tensors by both names, metadata, what is refused; and many families in llama.cpp itself."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.gguf.architectures import architecture_of
from raylm.model.gguf.write import check_written, write_gguf
from tests.model.gguf.small import checkpoint, config_of, small

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}


def read(file: Any) -> tuple[dict[str, np.ndarray], Any]:
    found = gguf.GGUFReader(file)
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in found.tensors}, found


def test_tensors_are_those_of_the_checkpoint(tmp_path):
    wrote = write_gguf(small("llama"), tmp_path / "m.gguf", "f32", licence="apache-2.0")
    tensors, file = read(tmp_path / "m.gguf")
    stored = load_file(small("llama") / "model.safetensors")
    assert wrote.num_parameters == sum(value.size for value in stored.values()) == sum(value.size for value in tensors.values())
    np.testing.assert_array_equal(tensors["token_embd.weight"], stored["model.embed_tokens.weight"])
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight"], stored["model.layers.1.mlp.down_proj.weight"])
    # row 2 * i + half of a head is row 8 * half + i of the checkpoint's
    keys = stored["model.layers.0.self_attn.k_proj.weight"]
    rows = [16 * head + 8 * half + at for head in range(2) for at in range(8) for half in range(2)]
    np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"], keys[rows])
    fields = {key: field.contents() for key, field in file.fields.items()}
    assert fields["general.license"] == "apache-2.0" and fields["general.architecture"] == "llama"
    assert fields["llama.attention.head_count_kv"] == 2 and fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == 2 and fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.token_type"][:7] == [3] * 6 + [1]


def test_matrices_of_gpt2_are_turned_and_rounded_ones_are_read_back(tmp_path):
    write_gguf(small("gpt2"), tmp_path / "m.gguf", "q8_0")
    tensors, _ = read(tmp_path / "m.gguf")
    stored = load_file(small("gpt2") / "model.safetensors")
    theirs = stored["transformer.h.0.mlp.c_fc.weight"].T
    assert 0 < np.abs(tensors["blk.0.ffn_up.weight"] - theirs).max() < np.abs(theirs).max() / 100
    np.testing.assert_array_equal(tensors["position_embd.weight"], stored["transformer.wpe.weight"])


def test_widths_that_k_quants_cannot_hold_are_told(tmp_path):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")
    wrote = write_gguf(small("llama"), tmp_path / "m.gguf", "q4_k_m")
    assert wrote.fallbacks["Q4_K -> Q5_0"].startswith("11 tensors of width 64") and wrote.types["Q5_0"] > 0
    # head, and of the last layer values and second matrix
    assert wrote.fallbacks["Q6_K -> Q8_0"] == "2 tensors of width 64, 1 tensors of width 96"


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rotary positions of type 'dynamic'",
        ),
        ("llama", {"hidden_act": "gelu"}, "feed-forward layers with gelu"),
        ("mistral", {"sliding_window": 128}, "attention within a window .128."),
        ("qwen3", {"attention_bias": True}, "biases in attention"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "layers without experts"),
        ("gpt2", {"activation_function": "relu"}, "feed-forward layers with relu"),
        ("qwen2", {"rope_parameters": LLAMA3}, "rotary positions of type 'llama3'"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(kind, changes, words):
    with pytest.raises(ConfigError, match=words):
        architecture_of(config_of(kind, **changes).to_dict(), "here")


def test_other_families_are_refused_by_name():
    with pytest.raises(ConfigError, match="model_type 'bert' cannot be written as GGUF here"):
        architecture_of({"model_type": "bert"})


def test_a_file_that_was_cut_is_told(tmp_path):
    write_gguf(small("gpt2"), tmp_path / "m.gguf", "f16")
    content = (tmp_path / "m.gguf").read_bytes()
    check_written(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(content[: len(content) - 4096])
    with pytest.raises((ArtifactError, ValueError)):
        check_written(tmp_path / "m.gguf")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {}), ("qwen2", {}), ("qwen2_moe", {}), ("qwen3_moe", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}), ("llama", {"tie_word_embeddings": False}),
        ("llama", {"rope_parameters": LLAMA3}), ("llama", {"rope_parameters": YARN}),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}),
    ],
)  # fmt: skip
def test_llama_cpp_computes_the_same(tmp_path, kind, changes):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")
    from raylm.compress.consumers.parity import Asked, prove
    from raylm.compress.consumers.transformers import Transformers
    from raylm.compress.consumers.xllamacpp import Xllamacpp
    from tests.compress.consumers.planted import PROMPTS

    source = checkpoint(tmp_path / "source", kind, **changes)
    write_gguf(source, tmp_path / "m.gguf", "f32")
    said = Transformers().run(source, PROMPTS, 8)
    asked = Asked("gguf", exact=True, noise=1e-3, most_kl=1e-6, max_tokens=8)
    parity = prove(asked, tmp_path / "m.gguf", str(source), PROMPTS, consumers=[Xllamacpp()], reference=said)
    assert not parity.wrong(), parity.wrong()
