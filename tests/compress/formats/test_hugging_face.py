"""A checkpoint as a folder that can be published: a copy that transformers loads, or in another dtype."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from raylm.cli import main
from raylm.compress.config import Compress
from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.formats.hugging_face import HuggingFace
from raylm.compress.formats.megatron import Megatron
from raylm.compress.formats.source import Source
from raylm.compress.methods.applied import Applied
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows


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


class Halve(Config):
    """A method that leaves plain weights, and makes another model."""

    makes: ClassVar[str] = "plain"

    def apply(self, model, calibration):
        import copy

        half = copy.deepcopy(model)
        half.model.layers[0].mlp.down_proj.weight.data *= 0.5
        return Applied(None, {"halved": True}, {"share": 0.5}, half)


def test_what_a_method_leaves_plain_is_written(tmp_path, base):
    make_rows(tmp_path, "rows", Tokens, counting_rows(12))
    method = {"kind": "custom", "path": f"{__name__}:Halve"}
    cfg = Compress(stage="compress", model=str(base), method=method, calibration=str(tmp_path / "rows"), calibration_rows=4)
    assert cfg.misfit() == "" and cfg.makes().variant == ""
    written = compress(cfg, str(base), str(tmp_path / "rows"), str(tmp_path / "out"))
    name = "model.layers.0.mlp.down_proj.weight"
    assert (load_file(tmp_path / "out" / "model.safetensors")[name] * 2).equal(load_file(base / "model.safetensors")[name])
    assert written.facts == {"dtype": "float32", "halved": True} and written.metrics["share"] == 0.5
    assert written.metrics["kl"] > 0 and written.metrics["held_tokens"] > 0
    for other, said in ((CompressedTensors(), "drop format"), (Megatron(), "what a stage before has made")):
        assert said in cfg.model_copy(update={"format": other}).misfit()
