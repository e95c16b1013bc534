"""Files of ranks: names, numbers of blocks, and a stranger's file is read without running its code."""

from __future__ import annotations

import argparse
import enum
import pathlib

import pytest
import torch
from safetensors.torch import load_file

from raylm.core.errors import ArtifactError
from raylm.model.megatron.classic import FILE, chunks
from raylm.model.megatron.convert import from_megatron, to_megatron
from raylm.model.megatron.shape import Layout, Shape
from tests.model.megatron.small import small_checkpoint


class Kind(enum.Enum):
    """Stands for the enums that Megatron's arguments hold."""

    GPT = 1


class Trap:
    """Touches a file when it is unpickled the usual way."""

    def __init__(self, at: pathlib.Path) -> None:
        self.at = at

    def __reduce__(self):
        return touch, (self.at,)


def touch(at: pathlib.Path) -> None:
    at.touch()


def ranks(folder):
    return {path.parent.name: torch.load(path, weights_only=False) for path in folder.glob(f"release/*/{FILE}")}


def test_virtual_stages_take_turns():
    shape = Shape(8, 1, 1, 8, False, False, False, 0, (False,) * 8, (8,))
    found = [chunks(shape, Layout(pipeline=2, virtual=2), stage) for stage in range(2)]
    assert found == [[range(2), range(4, 6)], [range(2, 4), range(6, 8)]]


def test_names_and_places_of_the_transformer_engine_spec(tmp_path):
    source = small_checkpoint(tmp_path / "hf", "qwen2", num_hidden_layers=2)
    to_megatron(str(source), str(tmp_path / "mt"), Layout(tensor=2, pipeline=2, divisible=8), say=lambda line: None)
    found = ranks(tmp_path / "mt")
    assert sorted(found) == ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]
    block = [
        "mlp.linear_fc1._extra_state", "mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight", "mlp.linear_fc2._extra_state",
        "mlp.linear_fc2.weight", "self_attention.linear_proj._extra_state", "self_attention.linear_proj.weight",
        "self_attention.linear_qkv._extra_state", "self_attention.linear_qkv.bias", "self_attention.linear_qkv.layer_norm_weight",
        "self_attention.linear_qkv.weight",
    ]  # fmt: skip
    own = [f"decoder.layers.0.{name}" for name in block]
    assert sorted(found["mp_rank_00_000"]["model"]) == [*own, "embedding.word_embeddings.weight"]
    # tied, so the last stage has the embedding once more
    assert sorted(found["mp_rank_01_001"]["model"]) == ["decoder.final_layernorm.weight", *own, "output_layer.weight"]
    words, theirs = (found["mp_rank_01_001"]["model"]["output_layer.weight"], load_file(source / "model.safetensors"))
    assert torch.equal(words[:29], theirs["model.embed_tokens.weight"][32:])
    assert not words[29:].any()
    second = found["mp_rank_00_001"]["model"]["decoder.layers.0.mlp.linear_fc2.weight"]
    assert torch.equal(second, theirs["model.layers.1.mlp.down_proj.weight"][:, :24])
    args = found["mp_rank_00_000"]["args"]
    assert (args.num_layers, args.num_query_groups, args.padded_vocab_size, args.add_qkv_bias) == (2, 4, 64, True)
    assert (tmp_path / "mt" / "latest_checkpointed_iteration.txt").read_text() == "release"


def test_a_strangers_file_runs_nothing(tmp_path):
    source = small_checkpoint(tmp_path / "hf", "llama", num_hidden_layers=1)
    to_megatron(str(source), str(tmp_path / "mt"), Layout(divisible=8), say=lambda line: None)
    path = tmp_path / "mt" / "release" / "mp_rank_00" / FILE
    held = torch.load(path, weights_only=False)
    # iterations, enums, random states, an optimizer and experts as Transformer Engine groups them lie beside the weights
    args = argparse.Namespace(**vars(held["args"]), model_type=Kind.GPT, save=pathlib.Path("x"))
    torch.save({**held, "args": args, "optimizer": {"state": torch.ones(3)}, "rng_state": [Trap(tmp_path / "ran")]}, path)
    from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"))
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()
    ours, theirs = load_file(tmp_path / "back" / "model.safetensors"), load_file(source / "model.safetensors")
    assert all(torch.equal(theirs[name], one) for name, one in ours.items())


def test_a_missing_rank_or_tensor_is_named(tmp_path):
    source = small_checkpoint(tmp_path / "hf", "llama", num_hidden_layers=2)
    to_megatron(str(source), str(tmp_path / "mt"), Layout(pipeline=2, divisible=8), say=lambda line: None)
    path = tmp_path / "mt" / "release" / "mp_rank_00_001" / FILE
    held = torch.load(path, weights_only=False)
    del held["model"]["decoder.layers.0.mlp.linear_fc2.weight"]
    torch.save(held, path)
    with pytest.raises(ArtifactError, match=r"no tensor decoder.layers.0.mlp.linear_fc2.weight"):
        from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"))
    path.unlink()
    with pytest.raises(ArtifactError, match="1 ranks' files, the checkpoint was sharded for 2"):
        from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"))
