"""Adapters that a served model can answer with, and those that are refused before an engine sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raylm.core.errors import ArtifactError, ConfigError, StorageError
from raylm.serve.engine.adapter_check import Base, checked, modules_of
from tests.model.tiny import tiny_checkpoint
from tests.serve.tiny_adapter import write_adapter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return write_adapter(model, tmp_path_factory.mktemp("adapter"))


def check(adapter, model, into, name="french", max_rank=8, fingerprint="f00d"):
    return checked(name, str(adapter), Base(str(model), fingerprint, max_rank), Path(into))


def test_an_adapter_is_copied_under_the_name_of_its_content(adapter, model, tmp_path):
    found = check(adapter, model, tmp_path)
    assert found.at == tmp_path / found.digest and found.rank == 4
    assert sorted(file.name for file in found.at.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert found.lineage == {"fingerprint": found.digest, "rank": 4}
    assert check(adapter, model, tmp_path) == found


def test_layers_of_blocks_take_adapters(model):
    assert modules_of(str(model)) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize("name", ["../other", "a/../b", "/etc/passwd", "", "a b", "a\nb", "x" * 97, "..", "a//b", "a/", "\u0430"])
def test_names_that_are_read_as_paths_are_refused(adapter, model, tmp_path, name):
    with pytest.raises(ConfigError, match="is no model name"):
        check(adapter, model, tmp_path, name)
    assert not any(tmp_path.iterdir())


def test_pickles_are_refused(adapter, model, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(adapter, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="a pickle, which may run code"):
        check(pickled, model, tmp_path / "into")
    # beside safetensors it is not read, and not copied
    shutil.copy(adapter / "adapter_model.safetensors", pickled)
    assert not list(check(pickled, model, tmp_path / "into").at.glob("*.bin"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 16}, "has rank 16"),
        ({"rank_pattern": {"q_proj": 12}}, "has rank 12"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["lm_head"]}, "in a block"),
        ({"target_modules": ["embed_tokens"]}, "in a block"),
    ],
)
def test_what_the_engine_would_leave_out_is_refused(model, tmp_path, config, words):
    write_adapter(model, tmp_path / "adapter", **config)
    with pytest.raises(ConfigError, match=words):
        check(tmp_path / "adapter", model, tmp_path / "into")


def test_other_kinds_and_changed_bases_are_refused(adapter, model, tmp_path):
    for key, value, words in (("peft_type", "IA3", "not LORA"), ("init_lora_weights", "pissa", "changed base")):
        other = tmp_path / key
        shutil.copytree(adapter, other)
        config = json.loads((other / "adapter_config.json").read_text())
        (other / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ConfigError, match=words):
            check(other, model, tmp_path / "into")


def test_an_adapter_of_another_model_is_refused(adapter, tmp_path):
    wider = tiny_checkpoint(tmp_path / "wider", hidden=96)
    with pytest.raises(ConfigError, match="does not fit"):
        check(adapter, wider, tmp_path / "into")
    shallow = tiny_checkpoint(tmp_path / "shallow", layers=1)
    with pytest.raises(ConfigError, match=r"has no layer model\.layers\.1"):
        check(adapter, shallow, tmp_path / "into")
    # of the same shape, with other values
    twin = tiny_checkpoint(tmp_path / "twin", seed=1)
    with pytest.raises(ConfigError, match="is another matrix"):
        check(adapter, twin, tmp_path / "into")


def test_nothing_there(model, tmp_path):
    with pytest.raises(ArtifactError, match="no adapter here"):
        check(tmp_path / "nowhere", model, tmp_path / "into")


def test_a_copy_that_broke_off_is_not_taken_for_a_whole_one(adapter, model, tmp_path, monkeypatch):
    whole, real = [], shutil.copyfile

    def full(source, target):
        if whole:
            raise OSError(28, "No space left on device")
        whole.append(real(source, target))

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copyfile", full)
        with pytest.raises(StorageError, match="cannot be copied: No space left"):
            check(adapter, model, tmp_path)
    assert not any(tmp_path.iterdir())
    found = check(adapter, model, tmp_path)
    assert sorted(file.name for file in found.at.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
