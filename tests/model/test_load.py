"""Takes folders and facts of rows, proves what is loaded and what is refused in words."""

from __future__ import annotations

import pytest
import torch

from raylm.core.artifact import Checkpoint
from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.load import check_tokenizer, checkpoint_path, load_model, load_tokenizer
from tests.model.tiny import tiny_checkpoint, tiny_model
from tests.stages import context


def test_a_model_is_loaded_as_stored_or_as_asked(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).to(torch.bfloat16).save_pretrained(tmp_path)
    assert next(load_model(str(tmp_path)).parameters()).dtype == torch.bfloat16
    assert next(load_model(str(tmp_path), "float32").parameters()).dtype == torch.float32


def test_what_is_no_model_is_said_with_its_place(tmp_path):
    with pytest.raises(ArtifactError, match="no model could be loaded") as caught:
        load_model(str(tmp_path))
    assert caught.value.where == str(tmp_path)
    with pytest.raises(ArtifactError, match="no tokenizer could be loaded"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(tmp_path):
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError):
        load_model(str(tmp_path))


def test_a_reference_is_a_stage_a_folder_or_a_hub_name(tmp_path):
    made = context(tmp_path, "base")
    tiny_checkpoint(made.out.uri, vocab=300, hidden=32, layers=1)
    made.commit(Checkpoint, facts={})
    plain = tiny_checkpoint(tmp_path.parent / f"{tmp_path.name}-plain", vocab=300, hidden=32, layers=1)
    ctx = context(tmp_path, "next")
    assert checkpoint_path(ctx, "base") == str(tmp_path / "base")
    assert checkpoint_path(ctx, str(tmp_path / "base")) == str(tmp_path / "base")
    assert checkpoint_path(ctx, str(plain)) == str(plain)
    assert checkpoint_path(ctx, "someone/model-1b") == "someone/model-1b"


def test_rows_of_another_tokenizer_are_refused():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 2}, "rows")
    with pytest.raises(ConfigError, match="'rows' has 71 tokens, the model's embedding 70"):
        check_tokenizer(model, {"vocab_size": 71, "eos_token_id": 2}, "rows")
    with pytest.raises(ConfigError, match=r"ends texts with token 5, the model with \[2\]"):
        check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 5}, "rows")
    model.config.eos_token_id = [2, 5]
    check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 5}, "rows")
