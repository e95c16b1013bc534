"""Models of several kinds: what is refused before the first step."""

from __future__ import annotations

import pyarrow as pa
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from raylm.core.artifact import Dialogues, Tokens
from raylm.core.errors import ConfigError
from raylm.data.shards import write_arrow
from raylm.train.config import Train
from raylm.train.learner import keeps_apart, start_model
from raylm.train.objectives.classification import Classification
from raylm.train.objectives.reward import Reward
from raylm.trainer.setup import Setup
from tests.model.tiny import tiny_composite
from tests.stages import context

TOKENS = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 16}
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _start(at, kind, document_mask=True, objective=None, adapter=None, classes=(), **fields):
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
        tokens={**TOKENS, "classes": classes},
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


def test_classes_that_rows_do_not_have_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="objective classification learns classes, the rows have none"):
        _start(tmp_path, "llama", document_mask=False, objective=Classification())
    model = _start(tmp_path, "llama", document_mask=False, objective=Classification(), classes=["bad", "good"])
    assert type(model).__name__ == "LlamaForSequenceClassification" and model.config.id2label == {0: "bad", 1: "good"}
    with pytest.raises(ConfigError, match=r"objective reward learns no classes, the rows have the classes \['bad', 'good'\]"):
        _start(tmp_path, "llama", document_mask=False, objective=Reward(), classes=["bad", "good"])


def test_an_adapter_beside_a_new_value_head_is_refused(tmp_path):
    from tests.test_estimate import Judge

    assert _start(tmp_path / "whole", "llama", document_mask=False, objective=Judge()).score.weight.shape == (1, 16)
    with pytest.raises(ConfigError, match="beside a new value head would train under a random readout"):
        _start(tmp_path / "beside", "llama", document_mask=False, objective=Judge(), adapter={})


@pytest.mark.parametrize(
    ("kind", "packed", "asked", "apart"),
    [
        (Dialogues, True, None, True),
        (Dialogues, True, False, False),
        (Dialogues, False, None, False),
        (Tokens, True, None, False),
        (Tokens, True, True, True),
    ],
)
def test_dialogues_that_share_a_row_are_kept_apart_unless_that_is_switched_off(tmp_path, kind, packed, asked, apart):
    ctx = context(tmp_path, "rows")
    row = {"tokens": [3, 4, 5, 6], "mask": [0, 1, 0, 1], **({"starts": [0, 2]} if packed else {})}
    write_arrow(ctx.out, "train-00000.arrow", pa.table({name: [values] for name, values in row.items()}))
    rows = ctx.commit(kind, facts=TOKENS, rows={"train-00000.arrow": 1})
    cfg = Train(stage="train", rows="rows", model="some/model", batch=1, steps=1, document_mask=asked)
    setup = Setup(
        rows_uris=[rows.uri], num_rows=[1], rows_kind=kind.__name__, model_path="", tokenizer_path="", tokens=TOKENS,
        steps=1, out="", work="",
    )  # fmt: skip
    assert keeps_apart(cfg, setup) is apart
