"""Rounded weights on file: refused where nothing is rounded, and where they load as another model."""

from __future__ import annotations

import json

import pytest

from raylm.compress.config import Compress
from raylm.compress.formats.compressed_tensors import CompressedTensors, check_reload
from raylm.compress.formats.source import Source
from raylm.compress.stage import compress
from raylm.core.config import Makes
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.model.load import load_model
from tests.model.tiny import tiny_checkpoint

INT8 = {"kind": "int8", "activations": "dynamic"}


def test_a_folder_that_says_how_it_is_rounded_and_how_to_generate(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", vocab=300, layers=1)
    (base / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": 2}')
    cfg = Compress(stage="compress", model=str(base), method=INT8)
    assert cfg.makes() == Makes("Checkpoint", "quantized")
    compress(cfg, str(base), None, str(tmp_path / "out"))
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    )
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.7
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    other = load_model(str(tiny_checkpoint(tmp_path / "other", vocab=300, layers=2)))
    with pytest.raises(ArtifactError, match="loads what was written as another model: logits differ"):
        check_reload(other, str(tmp_path / "out"))


def test_plain_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds rounded weights\n.*compress stage with a `method`"):
        CompressedTensors().write(Source("somewhere"), Folder(tmp_path))
