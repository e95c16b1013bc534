"""Folders that hold no complete model: each is named for what it is, from file headers alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylm.core.errors import ArtifactError
from raylm.model.headers import named, read_config, read_headers, same_values, usual_dtype
from tests.model.tiny import tiny_model


@pytest.fixture
def saved(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).save_pretrained(tmp_path)
    return tmp_path


def _cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _only(folder, name, content=b"x"):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
BROKEN = {
    "cut": (_cut, "model.safetensors is cut off: [0-9,]+ of [0-9,]+ bytes are there"),
    "empty": (lambda at: (at / "model.safetensors").write_bytes(b""), "cut off after 0 bytes"),
    "zeros": (lambda at: (at / "model.safetensors").write_bytes(bytes(900)), "no readable header"),
    "longer": (lambda at: (at / "model.safetensors").open("ab").write(b"xx"), "its header describes"),
    "another format": (lambda at: (at / "model.safetensors").write_bytes(b"PK" * 99), "no safetensors file"),
    "pointer": (lambda at: (at / "model.safetensors").write_bytes(POINTER), "Git LFS pointer"),
    "pickled": (lambda at: _only(at, "pytorch_model.bin"), "pickled or of another framework .pytorch_model.bin."),
    "gguf": (lambda at: _only(at, "m.gguf"), "m.gguf is a GGUF file"),
    "other name": (lambda at: _only(at, "weights.safetensors"), "weights.safetensors is not read"),
    "nothing": (lambda at: (at / "model.safetensors").unlink(), "there is no model.safetensors here"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_no_whole_weights_are_told_apart(saved, case):
    spoil, said = BROKEN[case]
    spoil(saved)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_headers(saved)
    assert caught.value.where == str(saved) and caught.value.next


def test_shards_and_tensors_of_an_index_are_all_there(saved):
    tiny_model(vocab=70, hidden=32, layers=2).save_pretrained(saved, max_shard_size="30KB")
    (saved / "model.safetensors").unlink()
    found, shards = read_headers(saved), sorted(saved.glob("model-*"))
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tuple(tensor.shape) for shard in shards for name, tensor in load_file(shard).items()
    }
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    index["weight_map"]["other"] = shards[0].name
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="names tensors that no file holds: other"):
        read_headers(saved)
    shards[1].unlink()
    with pytest.raises(ArtifactError, match=f"1 of {len(shards)} files .* are missing: {shards[1].name}"):
        read_headers(saved)


def test_a_folder_without_a_config_says_what_it_is(tmp_path, saved):
    with pytest.raises(ArtifactError, match="no such folder"):
        read_config(tmp_path / "nowhere")
    (saved / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config.json is no JSON"):
        read_config(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"there is no config.json"):
        read_config(saved)
    # transformers would load the weights of the adapter's base in place of those beside it
    (saved / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(ArtifactError, match="LoRA adapter") as caught:
        read_config(saved)
    assert "some/base" in str(caught.value.next)


def test_values_are_compared_and_dtypes_weighed_without_torch(tmp_path):
    rows = torch.arange(3_000_000.0)
    save_file({"a": rows, "b": rows.clone(), "c": rows + 1, "d": torch.ones(9).half()}, tmp_path / "model.safetensors")
    found = read_headers(tmp_path)
    assert same_values(found["a"], found["b"]) and not same_values(found["a"], found["c"])
    assert not same_values(found["a"], found["d"])
    assert usual_dtype(found) == "F32" and usual_dtype({}) is None
    assert named(["a", "b", "c", "d"]) == "a, b, c and 1 more"


def test_heads_are_read_where_there_is_no_torch(saved):
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'safetensors', 'numpy'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom raylm.model.preflight import Needs, check_folder\n"
        "print(check_folder(Path(sys.argv[1]), Needs('causal', plain=True, engine=True, text=True))['model_type'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=False)
    assert done.stdout == "llama\n", done.stderr
