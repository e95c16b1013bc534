"""Models of several kinds: what is refused before the first step."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from raylm.core.errors import ConfigError
from raylm.train.config import Train
from raylm.train.learner import start_model
from raylm.trainer.setup import Setup
from tests.model.tiny import tiny_composite

TOKENS = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 16}
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _start(at, kind, document_mask=True, objective=None, adapter=None, **fields):
    usual = {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = AutoConfig.for_model(kind, **SMALL, **usual, **fields)
    AutoModelForCausalLM.from_config(shape).save_pretrained(at)
    cfg = Train(stage="train", rows="rows", model=str(at), batch=1, steps=1, document_mask=document_mask, adapter=adapter)
    cfg = cfg.model_copy(update={"objective": objective}) if objective else cfg
    setup = Setup(
        rows_uris=["rows"],
        num_rows=[1],
        rows_kind="Tokens",
        model_path=str(at),
        tokenizer_path="",
        tokens=TOKENS,
        steps=1,
        out="",
        work="",
    )
    return start_model(cfg, setup)


def test_document_mask_is_refused_where_documents_would_see_each_other(tmp_path):
    assert _start(tmp_path / "llama", "llama")
    assert _start(tmp_path / "narrow", "mistral", sliding_window=8)
    assert _start(tmp_path / "qwen2", "qwen2", sliding_window=4)
    with pytest.raises(ConfigError, match="attention sinks"):
        _start(tmp_path / "sinks", "gpt_oss", layer_types=["full_attention"], num_local_experts=2)
    with pytest.raises(ConfigError, match="it has conv"):
        _start(tmp_path / "conv", "lfm2", layer_types=["conv"])
    assert _start(tmp_path / "free", "lfm2", document_mask=False, layer_types=["conv"])


def test_a_composite_model_trains_its_text_on_data_ranks_alone(tmp_path):
    tiny_composite("gemma3").save_pretrained(tmp_path)
    setup = Setup(
        rows_uris=["rows"],
        num_rows=[1],
        rows_kind="Tokens",
        model_path=str(tmp_path),
        tokenizer_path="",
        tokens=TOKENS,
        steps=1,
        out="",
        work="",
    )
    usual = {"stage": "train", "rows": "rows", "model": str(tmp_path), "batch": 1, "steps": 1}
    assert type(start_model(Train(**usual), setup)).__name__ == "Gemma3ForConditionalGeneration"
    with pytest.raises(ConfigError, match="parts beside its language model, tensor knows none"):
        start_model(Train(**usual, mesh={"tensor": 2}, workers={"count": 2}), setup)
    with pytest.raises(ConfigError, match="document_mask"):
        start_model(Train(**usual, document_mask=True), setup)


def test_an_adapter_beside_a_new_value_head_is_refused(tmp_path):
    from tests.test_estimate import Judge

    assert _start(tmp_path / "whole", "llama", document_mask=False, objective=Judge()).score.weight.shape == (1, 16)
    with pytest.raises(ConfigError, match="beside a new value head would train under a random readout"):
        _start(tmp_path / "beside", "llama", document_mask=False, objective=Judge(), adapter={})
