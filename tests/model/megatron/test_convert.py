"""Tiny checkpoints through Megatron's layouts and back: nothing is lost, invented or rounded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from raylm.cli import main
from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.megatron.convert import from_megatron, to_megatron
from raylm.model.megatron.shape import Layout
from tests.model.megatron.small import small_checkpoint

CASES = [
    ("llama", "bfloat16", Layout(tensor=2, pipeline=2, divisible=8)),
    ("llama", "float32", Layout(tensor=4, pipeline=2, virtual=2, divisible=8, spec="local")),
    ("qwen2", "float16", Layout(tensor=2, pipeline=2, divisible=8)),
    ("qwen3", "float32", Layout(tensor=1, pipeline=4, divisible=1)),
    ("qwen3_moe", "bfloat16", Layout(tensor=2, pipeline=2, expert=2, divisible=8)),
    ("qwen3_moe", "float32", Layout(tensor=2, expert=4, divisible=8, spec="local")),
]


def tensors(folder):
    return {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}


def assert_equal(ours, theirs):
    ours, theirs = tensors(ours), tensors(theirs)
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        assert one.dtype == theirs[name].dtype, name
        assert torch.equal(one, theirs[name]), name


@pytest.mark.parametrize("form", ["torch", "torch_dist"])
@pytest.mark.parametrize(("family", "dtype", "layout"), CASES)
def test_there_and_back_is_bit_equal(tmp_path, family, dtype, layout, form):
    source = small_checkpoint(tmp_path / "hf", family, dtype)
    to_megatron(str(source), str(tmp_path / "mt"), layout, form, say=lambda line: None)
    from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"))
    assert_equal(tmp_path / "back", source)


@pytest.mark.parametrize("form", ["torch", "torch_dist"])
def test_dense_blocks_among_sparse_ones(tmp_path, form):
    source = small_checkpoint(tmp_path / "hf", "qwen3_moe", mlp_only_layers=[0, 2])
    to_megatron(
        str(source), str(tmp_path / "mt"), Layout(tensor=2, pipeline=2, expert=2, divisible=8), form, say=lambda line: None
    )
    from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"), max_bytes=40_000)
    assert_equal(tmp_path / "back", source)
    assert (tmp_path / "back" / "model.safetensors.index.json").is_file()
    assert all(path.stat().st_size < 50_000 for path in (tmp_path / "back").glob("*.safetensors"))


def test_commands_in_both_directions_name_the_next_one(tmp_path, capsys):
    source, there, back = small_checkpoint(tmp_path / "hf", "llama"), tmp_path / "mt", tmp_path / "back"
    cut = ["--tensor", "2", "--pipeline", "2"]
    assert main(["convert", str(source), "--to", "megatron", str(there), *cut]) == 0
    said = capsys.readouterr().out
    assert "release/mp_rank_01_001/model_optim_rng.pt" in said
    assert said.splitlines()[-1].startswith("next: ")
    assert "--load" in said
    assert main(["convert", str(there), "--from", "megatron", str(back)]) == 0
    assert str(back) in capsys.readouterr().out.splitlines()[-1]
    assert_equal(back, source)
    assert main(["convert", str(there), "--from", "megatron", str(back)]) == 1
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "own", "layout", "said"),
    [
        ("llama", {}, Layout(tensor=3), "query groups: 4 cannot be divided by 3"),
        ("llama", {}, Layout(pipeline=3), "blocks: 4 cannot"),
        ("llama", {}, Layout(expert=2), "experts: 1 cannot"),
        ("llama", {}, Layout(virtual=2), "virtual stages need"),
        ("llama", {"attention_bias": True}, Layout(), "biases"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, Layout(), "scaled by linear"),
    ],
)
def test_what_megatron_would_compute_otherwise_is_refused(tmp_path, family, own, layout, said):
    source = small_checkpoint(tmp_path / "hf", family, num_hidden_layers=4, **own)
    with pytest.raises(ConfigError, match=said):
        to_megatron(str(source), str(tmp_path / "mt"), layout)
    assert not (tmp_path / "mt").exists()


@pytest.mark.parametrize("form", ["torch", "torch_dist"])
def test_a_config_of_another_model_is_refused(tmp_path, form):
    source = small_checkpoint(tmp_path / "hf", "qwen2")
    other = small_checkpoint(tmp_path / "other", "llama", tie_word_embeddings=True)
    to_megatron(str(source), str(tmp_path / "mt"), Layout(divisible=8), form, say=lambda line: None)
    with pytest.raises(ArtifactError, match=r"no place.*linear_qkv.bias"):
        from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"), like=str(other))
    assert not list((tmp_path / "back").glob("*.safetensors"))
