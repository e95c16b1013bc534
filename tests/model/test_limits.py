"""Limits of models: sequence lengths, known tokens, end tokens."""

from __future__ import annotations

import json

import pytest

from raylm.core.storage import Folder
from raylm.model.limits import ends, positions, tokens_of, vocabulary


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048, "max_position_embeddings": 4096}, 2048),
        ({"text_config": {"max_position_embeddings": 64}, "vision_config": {"max_position_embeddings": 9}}, 64),
        ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 4.0}}, 400),
        ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "dynamic", "factor": 2}}, 200),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 100),
        ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 100),
        ({"model_type": "mamba"}, None),
    ],
)
def test_positions(config, longest):
    assert positions(config) == longest


def test_vocabulary_of_the_text_part():
    assert vocabulary({"vocab_size": 7}) == 7
    assert vocabulary({"text_config": {"vocab_size": 9}}) == 9


def test_end_tokens_come_from_config_generation_config_and_tokenizer(tmp_path):
    vocab = {"a": 0, "<eos>": 4}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<eos>"}}))
    written = {"model": {"vocab": vocab}, "added_tokens": [{"id": 5, "content": "<x>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    assert ends(str(tmp_path), {"eos_token_id": 1}) == [1, 2, 3, 4]
    assert tokens_of(Folder(tmp_path)) == vocab | {"<x>": 5}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}))
    assert tokens_of(Folder(tmp_path)) == {"a": 0, "b": 1}
