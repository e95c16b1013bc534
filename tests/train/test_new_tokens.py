"""New special tokens: rows that hold them are refused without `new_tokens`; with it they are learned, exported and generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.data.batch import pad
from raylm.parallel.assemble import assemble
from raylm.train.config import Train
from raylm.train.learner import start_model
from raylm.trainer.export import write_streamed
from raylm.trainer.setup import Setup
from tests.model.tiny import tiny_checkpoint, tiny_tokenizer

NEW = ["<|tool|>", "<|call|>"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint, and the tokenizer of the rows with two tokens more."""
    at = tmp_path_factory.mktemp("new")
    tokenizer = tiny_tokenizer(300)
    tokenizer.add_special_tokens({"additional_special_tokens": NEW}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(at / "tokenizer")
    return tiny_checkpoint(at / "model", hidden=32, layers=1, vocab=300), at / "tokenizer"


def started(folders, out, **table: Any):
    model, tokenizer = folders
    cfg = Train.model_validate(
        {"stage": "train", "rows": "r", "model": str(model), "batch": 4, "steps": 40, "strategy": {"kind": "ddp"},
         "optimizer": {"lr": 3e-2, "warmup": 0.0, "schedule": "constant", "weight_decay": 0.0}, **table}
    )  # fmt: skip
    tokens = {"vocab_size": 302, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 12}
    setup = Setup(
        rows_uris=["r"], num_rows=[4], rows_kind="Dialogues", model_path=str(model), tokens=tokens,
        tokenizer_path=str(tokenizer), steps=40, out=str(out), work=str(out),
    )  # fmt: skip
    return cfg, start_model(cfg, setup)


@pytest.mark.parametrize("adapter", [None, {"rank": 8, "alpha": 16}], ids=["all weights", "lora"])
def test_new_tokens_are_learned_exported_and_generated(tmp_path, folders, adapter):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cfg, model = started(folders, tmp_path, new_tokens={"described": {"<|tool|>": "tool"}}, adapter=adapter)
    if cfg.adapter:
        model = cfg.adapter.attach(model, 0)
    config = model.config
    engine = assemble(model.train(), cfg, 40)
    prompt, answer = np.array([1, 50, 60]), np.array([300, 301])
    mask = np.repeat([0, 1], [len(prompt), len(answer)])
    padded = pad([np.concatenate([prompt, answer])], [mask], 0)
    inputs = cfg.objective.inputs(padded, 0)

    def loss(index: int, scores: Any) -> Any:
        found = cfg.objective.loss(scores, inputs, padded)
        return found._replace(total=found.total / len(answer))

    for _ in range(40):
        engine.accumulate([inputs], loss)
        engine.step()
    write_streamed(engine, Folder(tmp_path / "out"), config, str(folders[1]), cfg.adapter, str(folders[0]))
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert made.config.vocab_size == 302 and made.config.tie_word_embeddings
    with torch.no_grad():
        found = made.generate(torch.from_numpy(prompt)[None], max_new_tokens=2, do_sample=False)[0, len(prompt) :]
    assert found.tolist() == answer.tolist()
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.convert_ids_to_tokens([300, 301]) == NEW
    before = AutoModelForCausalLM.from_pretrained(folders[0]).get_input_embeddings().weight
    same = made.get_input_embeddings().weight[:300].equal(before)
    assert same == bool(adapter), "beside an adapter the old rows stay"


def test_rows_with_more_tokens_are_refused_unless_asked_for(tmp_path, folders):
    with pytest.raises(ConfigError, match=r"has 302 tokens, the model's embedding 300\n.*new_tokens = "):
        started(folders, tmp_path)
