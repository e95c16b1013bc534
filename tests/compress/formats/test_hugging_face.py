"""A checkpoint as a folder that can be published: a copy that transformers loads, or in another dtype."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from raylm.cli import main
from raylm.compress.config import Compress
from raylm.compress.formats.hugging_face import HuggingFace
from raylm.compress.formats.source import Source
from raylm.compress.stage import compress
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from tests.model.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model", vocab=300, layers=1)


def test_a_copy_holds_the_same_tensors_and_tokenizer(tmp_path, base):
    written = HuggingFace().write(Source(str(base)), Folder(tmp_path))
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(base / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert (tmp_path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert written.variant == "causal" and written.facts == {"dtype": "float32"}
    assert written.metrics["bytes_after"] == (tmp_path / "model.safetensors").stat().st_size


def test_another_dtype_by_the_stage_and_by_the_command_line(tmp_path, base, capsys):
    cfg = Compress(stage="compress", model=str(base), format={"kind": "hugging_face", "dtype": "bfloat16"})
    assert cfg.makes().variant == ""
    assert (
        compress(cfg, str(base), None, str(tmp_path / "stage")).metrics["bytes_after"]
        < 0.6 * (base / "model.safetensors").stat().st_size
    )
    assert main(["convert", str(base), str(tmp_path / "line"), "--to", "hugging_face", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith(f"next: name {tmp_path / 'line'} as `model`")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("stage", "line"))
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    assert one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


def test_a_method_beside_a_format_of_plain_weights_is_a_mistake_in_the_job():
    with pytest.raises(ValueError, match="format hugging_face writes weights as they are: drop method"):
        Compress(stage="compress", model="base", format={"kind": "hugging_face"}, method={"kind": "int8"})


def test_quantized_weights_are_refused(tmp_path, base):
    cfg = Compress(stage="compress", model=str(base), method={"kind": "int8", "activations": "dynamic"})
    compress(cfg, str(base), None, str(tmp_path / "small"))
    with pytest.raises(ConfigError, match="these weights are quantized"):
        HuggingFace().write(Source(str(tmp_path / "small")), Folder(tmp_path / "out"))
