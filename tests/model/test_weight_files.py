"""Tensors one by one: files are bounded, transformers loads them, and little is held at a time."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from raylm.model.weight_files import Tied, write_weights
from tests.model.tiny import tiny_model


def test_several_files_and_an_index_that_transformers_loads(tmp_path):
    model = tiny_model(vocab=300, hidden=32, layers=3, seed=4)
    most = 40_000
    write_weights(tmp_path, model, model.state_dict().items(), max_bytes=most)
    model.config.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2
    found = {path.name: load_file(path) for path in files}
    assert index["weight_map"] == {name: at for at, tensors in found.items() for name in tensors}
    assert all(len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= most for tensors in found.values())
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in found.values() for t in tensors.values())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[1, 8, 99]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_tensors_are_let_go_when_their_file_is_written(tmp_path):
    import weakref

    model, alive, most = tiny_model(vocab=300, hidden=32, layers=6, seed=4), [], 0

    def tensors():
        nonlocal most
        for name, tensor in model.state_dict().items():
            fresh = tensor.clone()
            alive.append(weakref.ref(fresh))
            most = max(most, sum(one().nbytes for one in alive if one() is not None))
            yield name, fresh
            del fresh

    write_weights(tmp_path, model, tensors(), max_bytes=60_000)
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert whole > 250_000
    assert most < 150_000


def test_experts_are_stored_one_by_one_as_their_class_does(tmp_path):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_experts=4, num_experts_per_tok=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).eval()
    write_weights(tmp_path / "", model, model.state_dict().items())
    model.config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "theirs" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in ours


def _pairs(*named):
    return [(name, torch.tensor(value)) for name, value in named]


def test_of_equal_tied_tensors_one_goes_by_and_of_others_all():
    sources = {"head": "table", "head.bias": "bias"}
    equal = _pairs(("table", [1.0, 2.0]), ("bias", [3.0]), ("head", [1.0, 2.0]), ("head.bias", [3.0]))
    tied = Tied(sources)
    assert [name for name, _ in tied.once(equal)] == ["table", "bias"] and tied.holds
    # the head may come before what it is tied to
    tied = Tied(sources)
    assert [name for name, _ in tied.once(equal[::-1])] == ["bias", "table"] and tied.holds
    # where one differs nothing may be tied when it is read: the other comes by its own name too
    tied = Tied(sources)
    found = dict(tied.once([*equal[:2], ("head", torch.tensor([1.0, 2.5])), equal[3]]))
    assert not tied.holds and found.keys() == {"table", "bias", "head", "head.bias"}
    assert found["head"].tolist() == [1.0, 2.5] and found["head.bias"].tolist() == [3.0]


def test_tensors_are_written_in_the_dtype_of_the_start(tmp_path):
    model = tiny_model(vocab=70, hidden=32, layers=1)
    kept = "model.norm.weight"
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    written = write_weights(tmp_path, model, model.state_dict().items(), dtypes={kept: torch.float32}, usual=torch.float16)
    found = load_file(tmp_path / "model.safetensors")
    # what float16 cannot hold stays as it was trained
    wide = {name for name, tensor in found.items() if tensor.dtype is torch.float32}
    assert wide == {kept, "model.layers.0.mlp.up_proj.weight"} and written.dtype == "float16" and written.tied
    assert all(tensor.isfinite().all() for tensor in found.values())
