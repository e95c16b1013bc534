"""The `lm_studio` format: the folder that LM Studio lists, and model.yaml."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from pydantic import ValidationError

from raylm.compress.formats.lm_studio import LmStudio
from raylm.compress.formats.source import Source
from raylm.core.storage import Folder
from tests.model.gguf.small import small


def test_the_file_lies_below_publisher_and_name(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    (at / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": 2})
    )
    card = LmStudio(dtype="q8_0", parity_prompts=0, publisher="me", name="mine")
    card.write(Source(str(at)), Folder(tmp_path / "out"))
    assert sorted(Folder(tmp_path / "out").files()) == ["model.yaml", "models/me/mine/mine-q8_0.gguf", "parity.json"]
    model = yaml.safe_load((tmp_path / "out" / "model.yaml").read_text())
    assert model["model"] == "me/mine" and model["base"][0]["sources"][0] == {"type": "huggingface", "user": "me", "repo": "mine"}
    assert model["metadataOverrides"]["contextLengths"] == [512] and model["metadataOverrides"]["architectures"] == ["llama"]
    assert model["metadataOverrides"]["trainedForToolUse"] is False
    assert model["config"]["operation"]["fields"] == [
        {"key": "llm.prediction.temperature", "value": 0.7},
        {"key": "llm.prediction.topPSampling", "value": {"checked": True, "value": 0.9}},
        {"key": "llm.prediction.repeatPenalty", "value": {"checked": True, "value": 1.0}},
    ]
    assert "models/me" in card.next_step("out")
    with pytest.raises(ValidationError):
        LmStudio(publisher="../up")
